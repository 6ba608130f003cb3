"""The map of services: callers left of what they call, circles and crowds survived."""

from __future__ import annotations

from analysis.reports import ServiceEdge
from app.pages.service_map import MAX_NODES, service_map
from tests.app import reports_made as made

MS = 1_000_000


def edge(caller: str, callee: str, calls: int = 100, errors: int = 0) -> ServiceEdge:
    return ServiceEdge(caller, callee, calls, errors, calls * 10 * MS, 20 * MS)


def test_callers_stand_left_of_what_they_call() -> None:
    drawn = service_map([edge("gateway", "orders"), edge("orders", "db", 5000), edge("orders", "worker", 9, 3)])
    assert drawn is not None
    x = {node.name: node.x for node in drawn.nodes}
    assert x["gateway"] < x["orders"] < x["db"] == x["worker"]
    places = [(node.x, node.y) for node in drawn.nodes]
    assert len(set(places)) == len(places)
    assert all(x + drawn.box_width < drawn.width and y + drawn.box_height < drawn.height for x, y in places)


def test_what_is_called_from_two_columns_stands_behind_both() -> None:
    drawn = service_map([edge("gateway", "cache"), edge("gateway", "orders"), edge("orders", "cache")])
    assert drawn is not None
    x = {node.name: node.x for node in drawn.nodes}
    assert x["gateway"] < x["orders"] < x["cache"]


def test_width_is_traffic_and_failing_calls_are_marked() -> None:
    drawn = service_map([edge("a", "b", 10_000, 99), edge("a", "c", 10, 1), edge("a", "d", 10)])
    assert drawn is not None
    busy, failing, calm = drawn.edges
    assert busy.width > failing.width > 1
    assert [line.failing for line in (busy, failing, calm)] == [False, True, False]
    assert failing.label == "20.0 ms, 10 % failed"
    assert calm.text == "a → d: 10 calls, p95 20.0 ms"


def test_circles_are_drawn() -> None:
    drawn = service_map([edge("a", "b"), edge("b", "c"), edge("c", "a"), edge("a", "a")])
    assert drawn is not None
    assert {node.name for node in drawn.nodes} == {"a", "b", "c"}
    assert len(drawn.edges) == 3


def test_a_crowd_or_nothing_is_no_map() -> None:
    assert service_map([]) is None
    assert service_map([edge("a", "")]) is None
    assert service_map([edge("a", f"b{number}") for number in range(MAX_NODES)]) is None


def test_long_names_fit_their_box() -> None:
    drawn = service_map([edge("a", made.HOSTILE)])
    assert drawn is not None
    assert max(len(node.label) for node in drawn.nodes) <= 22
