"""Linking: clocks, twins, orphans, and what a request did not wait for."""

from __future__ import annotations

from hypothesis import given

from analysis.semantics import OperationClass, RequestClass
from analysis.span import Kind, Span
from analysis.trace import build_trace, host_clock
from tests.random_traces import random_traces, span

MS = 1_000_000


def call(number: int, start_ms: float, end_ms: float, skew_ms: float, inside_ms: float = 1) -> list[Span]:
    """A client span on host one with its server span on host two, whose clock is `skew_ms` ahead."""
    client = span(
        10 * number,
        0,
        int(start_ms * MS),
        int(end_ms * MS),
        kind=Kind.CLIENT,
        host="one",
        operation_class=OperationClass.HTTP,
    )
    server = span(
        10 * number + 1,
        10 * number,
        int((start_ms + inside_ms + skew_ms) * MS),
        int((end_ms - inside_ms + skew_ms) * MS),
        kind=Kind.SERVER,
        host="two",
        service="b",
    )
    return [client, server]


def test_skew_is_the_median_over_calls_between_two_hosts() -> None:
    traces = [call(n, 100 * n, 100 * n + 20, skew_ms=250, inside_ms=1 + n % 3) for n in range(1, 30)]
    assert host_clock(traces) == {"two": 250 * MS}
    trace = build_trace(traces[0], host_clock(traces))
    server = trace.nodes[11]
    assert server.parent is not None
    assert server.parent.start_ns < server.start_ns < server.end_ns < server.parent.end_ns
    assert server.span.start_ns == traces[0][1].start_ns, "raw times are kept"
    assert any("clock of host two" in note for note in server.notes)


def test_clocks_that_agree_and_hosts_without_a_name_are_left_alone() -> None:
    assert host_clock([call(n, 100 * n, 100 * n + 20, skew_ms=0) for n in range(1, 30)]) == {}
    nameless = [[s._replace(host="") for s in call(n, 0, 20, skew_ms=500)] for n in range(1, 30)]
    assert host_clock(nameless) == {}


def test_a_chain_of_hosts_adds_its_offsets_up() -> None:
    traces = []
    for n in range(1, 20):
        first = call(n, 100 * n, 100 * n + 60, skew_ms=100)
        second = [
            span(
                5000 + 2 * n,
                first[1].span_id,
                first[1].start_ns + MS,
                first[1].end_ns - MS,
                kind=Kind.CLIENT,
                host="two",
            ),
            span(
                5001 + 2 * n,
                5000 + 2 * n,
                first[1].start_ns + 2 * MS - 300 * MS,
                first[1].end_ns - 2 * MS - 300 * MS,
                kind=Kind.SERVER,
                host="three",
            ),
        ]
        traces.append(first + second)
    assert host_clock(traces) == {"two": 100 * MS, "three": -200 * MS}


def test_twins_share_an_id_and_children_go_to_their_own_service() -> None:
    trace = build_trace(
        [
            span(1, 0, 0, 100),
            span(2, 1, 10, 90, kind=Kind.CLIENT),
            span(2, 1, 20, 80, kind=Kind.SERVER, service="b"),
            span(3, 2, 30, 40, service="b"),
        ]
    )
    child = trace.nodes[3]
    assert child.parent is not None
    assert child.parent.span.service == "b"


def test_an_orphan_becomes_a_root_and_its_parent_takes_it_back() -> None:
    orphan, parent = span(3, 2, 10, 20), span(2, 0, 0, 30)
    alone = build_trace([orphan])
    assert alone.roots[0].notes == ["parent not received"]
    assert [root.span.span_id for root in build_trace([orphan, parent]).roots] == [2]


def test_requests_are_entry_spans_and_own_nodes_stop_at_the_next_one() -> None:
    trace = build_trace(
        [
            span(1, 0, 0, 100),
            span(2, 1, 10, 90, kind=Kind.CLIENT, operation_class=OperationClass.HTTP),
            span(3, 2, 20, 80, kind=Kind.SERVER, service="b"),
            span(4, 3, 30, 40, service="b"),
            span(5, 1, 92, 95, request_class=RequestClass.NONE),
        ]
    )
    assert [node.span.span_id for node in trace.requests()] == [1, 3]
    assert [node.span.span_id for node in trace.roots[0].own_nodes()] == [1, 2, 5]


def test_asgi_spans_are_not_waited_for() -> None:
    trace = build_trace([span(1, 0, 0, 100), span(2, 1, 40, 99, operation_class=OperationClass.ASGI)])
    assert trace.roots[0].waited_for() == []


@given(random_traces(max_spans=20))
def test_every_span_is_in_the_tree_once(spans: list[Span]) -> None:
    trace = build_trace(spans)
    seen = [(node.span.span_id, node.span.span_hash) for node in trace.walk()]
    assert len(seen) == len(set(seen))
    assert set(seen) == {(s.span_id, s.span_hash) for s in spans}


@given(random_traces(max_spans=20))
def test_children_that_count_lie_inside_their_parents(spans: list[Span]) -> None:
    for node in build_trace(spans).walk():
        for child in node.waited_for():
            start_ns, end_ns = child.bounds
            assert node.start_ns <= start_ns <= end_ns <= max(node.end_ns, start_ns)


def test_sending_includes_what_the_producer_does_itself() -> None:
    producer = {"kind": Kind.PRODUCER, "operation_class": OperationClass.PRODUCER}
    trace = build_trace(
        [
            span(1, 0, 0, 100),
            span(2, 1, 10, 40, **producer),
            span(3, 2, 15, 30, kind=Kind.CLIENT, operation_class=OperationClass.CACHE),
            span(4, 2, 35, 90, kind=Kind.CONSUMER, operation_class=OperationClass.CONSUMER, service="worker"),
        ]
    )
    assert [child.span.span_id for child in trace.nodes[2].waited_for()] == [3]
    assert trace.nodes[4].notes == ["runs asynchronously: its producer did not wait for it"]
