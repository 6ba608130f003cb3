"""The critical path on cases worked by hand, and against properties on random traces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.critical_path import Section, critical_path
from analysis.node import Node
from analysis.sketch import EPOCH_NS
from analysis.span import Kind, Span
from analysis.trace import build_trace
from tests.random_traces import deep_chain, random_traces, span
from tests.sketched import drawn_request

MS = 1_000_000


def path_of(text: str) -> list[tuple[str, float, float]]:
    sections = critical_path(drawn_request(text))
    return [
        (section.node.span.name, (section.start_ns - EPOCH_NS) / MS, (section.end_ns - EPOCH_NS) / MS)
        for section in sections
    ]


CASES = {
    "no children": (
        "a  root  0..10",
        [("root", 0, 10)],
    ),
    "sequential": (
        """
        a  root  0..100
          a  one  10..30
          a  two  40..90
        """,
        [("root", 0, 10), ("one", 10, 30), ("root", 30, 40), ("two", 40, 90), ("root", 90, 100)],
    ),
    "parallel: the last to finish": (
        """
        a  root   0..100
          a  fast  10..30
          a  slow  10..80
        """,
        [("root", 0, 10), ("slow", 10, 80), ("root", 80, 100)],
    ),
    "back to back: equal instants are no overlap": (
        """
        a  root  0..30
          a  one   0..10
          a  two  10..20
          a  three  20..30
        """,
        [("one", 0, 10), ("two", 10, 20), ("three", 20, 30)],
    ),
    "overlap below 1 % of the parent counts as sequence": (
        """
        a  root  0..1000
          a  one  0..505
          a  two  500..1000
        """,
        [("one", 0, 500), ("two", 500, 1000)],
    ),
    "overlap above 1 % counts as parallel": (
        """
        a  root  0..1000
          a  one  0..520
          a  two  500..1000
        """,
        [("root", 0, 500), ("two", 500, 1000)],
    ),
    "nested": (
        """
        a  root  0..100
          a  outer  10..90
            a  inner  20..60
        """,
        [("root", 0, 10), ("outer", 10, 20), ("inner", 20, 60), ("outer", 60, 90), ("root", 90, 100)],
    ),
    "work after the response is not waited for": (
        """
        a  root  0..20
          a  early  2..10
          a  fire and forget  18..600
          a  later  25..60
        """,
        [("root", 0, 2), ("early", 2, 10), ("root", 10, 20)],
    ),
    "child that ends a hair after its parent is clipped": (
        """
        a  root  0..100
          a  child  50..100.5
        """,
        [("root", 0, 50), ("child", 50, 100)],
    ),
    "producer does not wait for its consumer": (
        """
        a  root  0..10
          a  send  2..4 producer
            b  run  3..9 consumer
        """,
        [("root", 0, 2), ("send", 2, 4), ("root", 4, 10)],
    ),
    "remote call through client and server spans": (
        """
        a  GET /x  0..100
          b  GET /y  10..90
        """,
        [("GET /x", 0, 10), ("GET /y", 10, 10.5), ("GET /y", 10.5, 89.5), ("GET /y", 89.5, 90), ("GET /x", 90, 100)],
    ),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_golden(text: str, expected: list[tuple[str, float, float]]) -> None:
    assert path_of(text) == expected


def test_fork_and_join_goes_through_the_slowest_branch() -> None:
    names = [
        name
        for name, _, _ in path_of(
            """
        a  root   0..100
          a  first   5..15
          a  left   15..40
          a  right  15..70
          a  join   70..95
        """
        )
    ]
    assert names == ["root", "first", "right", "join", "root"]


def check(root: Node, sections: list[Section]) -> None:
    assert sum(section.duration_ns for section in sections) == root.duration_ns
    cursor = root.start_ns
    for section in sections:
        assert section.start_ns == cursor
        assert section.end_ns > section.start_ns
        assert section.node.start_ns <= section.start_ns
        assert section.end_ns <= section.node.end_ns
        cursor = section.end_ns


def brute_force(root: Node) -> dict[int, int]:
    """Nanosecond by nanosecond: who is waited for at each instant, by the definition, without cursor tricks."""
    owner: dict[int, int] = {}

    def visit(node: Node, start: int, end: int) -> None:
        if end <= start:
            return
        tolerance = int(0.01 * node.duration_ns)
        limit, cursor = node.end_ns, end
        left = sorted(node.waited_for(), key=lambda c: (c.bounds[1], c.bounds[0], c.span.span_id), reverse=True)
        for child in left:
            low, high = child.bounds
            if high > limit + tolerance or low >= cursor or min(high, cursor) <= start:
                continue
            high = min(high, cursor)
            for instant in range(high, cursor):
                owner[instant] = node.span.span_id
            visit(child, max(low, start), high)
            cursor = limit = max(low, start)
        for instant in range(start, cursor):
            owner[instant] = node.span.span_id

    visit(root, root.start_ns, root.end_ns)
    return owner


@given(random_traces())
def test_sections_are_disjoint_and_add_up(spans: list[Span]) -> None:
    for root in build_trace(spans).roots:
        check(root, critical_path(root))


@given(random_traces(max_ns=60))
def test_equals_a_brute_force_walk(spans: list[Span]) -> None:
    for root in build_trace(spans).roots:
        owner = brute_force(root)
        for section in critical_path(root):
            for instant in range(section.start_ns, section.end_ns):
                assert owner[instant] == section.node.span.span_id


@given(random_traces(), st.permutations(range(12)))
def test_order_of_arrival_does_not_matter(spans: list[Span], order: list[int]) -> None:
    shuffled = [spans[position] for position in order if position < len(spans)] + spans[12:]
    first, second = build_trace(spans), build_trace(shuffled)
    for one, other in zip(first.roots, second.roots, strict=True):
        assert [(s.node.span, s.start_ns, s.end_ns) for s in critical_path(one)] == [
            (s.node.span, s.start_ns, s.end_ns) for s in critical_path(other)
        ]


def test_a_chain_of_100_000_spans_and_a_fan_of_as_many() -> None:
    chain = build_trace(deep_chain(100_000))
    check(chain.roots[0], critical_path(chain.roots[0]))
    fan = [span(1, 0, 0, 1_000_000)]
    fan += [span(n + 2, 1, n, n + 7, kind=Kind.INTERNAL) for n in range(100_000)]
    trace = build_trace(fan)
    check(trace.roots[0], critical_path(trace.roots[0]))


def test_cycles_and_self_parents_show_every_span_once() -> None:
    spans = [span(1, 3, 0, 10), span(2, 1, 1, 9), span(3, 2, 2, 8), span(4, 4, 0, 5), span(5, 4, 1, 2)]
    trace = build_trace(spans)
    assert sorted(node.span.span_id for node in trace.walk()) == [1, 2, 3, 4, 5]
    assert [root.span.span_id for root in trace.roots] == [1, 4]
    assert any("cycle" in note for note in trace.notes)


def test_exact_repeats_change_nothing() -> None:
    spans = [span(1, 0, 0, 100), span(2, 1, 10, 60), span(3, 1, 60, 90)]
    once, thrice = build_trace(spans), build_trace(spans * 3)
    assert thrice.repeats == 6
    assert [(s.start_ns, s.end_ns) for s in critical_path(once.roots[0])] == [
        (s.start_ns, s.end_ns) for s in critical_path(thrice.roots[0])
    ]
