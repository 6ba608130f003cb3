"""Critical paths laid over each other, against a case worked by hand and against the paths one by one."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.accounting import BookedRequest, bookings
from analysis.critical_path import critical_path
from analysis.ledger import Category
from analysis.path_profile import MAX_DEPTH, path_profile
from analysis.sketch import EPOCH_NS, sketch
from analysis.span import Span
from analysis.trace import build_trace
from tests.random_traces import deep_chain, random_traces

MS = 1_000_000


def booked(spans: list[Span], adjusted_count: float = 1.0) -> BookedRequest:
    trace = build_trace(spans)
    return BookedRequest(trace.roots[0], bookings(trace, trace.roots[0]), adjusted_count)


def drawn(*texts: str) -> list[BookedRequest]:
    return [booked(sketch(text, number + 1, EPOCH_NS)) for number, text in enumerate(texts)]


def normal(wait_ms: int) -> str:
    return f"""
    shop  GET /  0..{100 + wait_ms}
      shop  checkout  10..{20 + wait_ms} pool
      stock  GET /stock  {20 + wait_ms}..{60 + wait_ms}
        stock  SELECT 1  {30 + wait_ms}..{50 + wait_ms} db
    """


def test_calls_stand_below_their_callers_in_order_of_time() -> None:
    steps = path_profile(drawn(normal(300), normal(100)), drawn(normal(0), normal(0), normal(0)))
    found = [
        (step.depth, step.parent, step.service, step.category, step.body_ns / MS, step.tail_ns / MS) for step in steps
    ]
    assert found == [
        (0, -1, "shop", Category.OWN_CODE, 100, 300),
        (1, 0, "shop", Category.POOL, 10, 210),
        (1, 0, "shop", Category.EDGE_GAP, 40, 40),
        (2, 2, "stock", Category.OWN_CODE, 39, 39),
        (3, 3, "stock", Category.DATABASE, 20, 20),
    ]
    assert [step.name for step in steps] == ["GET /", "connect", "→ stock GET /stock", "GET /stock", "SELECT ?"]
    assert [step.own_difference_ns / MS for step in steps] == [0, 200, 0, 0, 0]
    assert steps[0].difference_ns == 200 * MS


def test_what_takes_less_than_one_per_cent_is_not_shown_and_nothing_gives_nothing() -> None:
    text = """
    shop  GET /  0..1000
      shop  tiny  10..19
      shop  small  20..31
    """
    assert [step.name for step in path_profile(drawn(text), drawn(text))] == ["GET /", "small"]
    assert path_profile([], []) == ()


@given(st.lists(random_traces(), min_size=1, max_size=4))
def test_own_times_add_up_to_the_mean_request(traces: list[list[Span]]) -> None:
    requests = [booked(spans) for spans in traces]
    expected: dict[str, float] = defaultdict(float)
    for request in requests:
        for section in critical_path(request.root):
            expected[section.node.span.service] += section.duration_ns / len(requests)
    steps = path_profile(requests, requests)
    top = sum(step.tail_ns for step in steps if step.depth == 0)
    mean = sum(request.root.duration_ns for request in requests) / len(requests)
    # What is below 1 % is left out, of each of at most twelve roots too.
    assert top == pytest.approx(mean, abs=0.01 * mean * 12 + 1)
    for place, step in enumerate(steps):
        below = [other for other in steps if other.parent == place]
        assert step.body_ns == step.tail_ns
        assert step.tail_own_ns + sum(other.tail_ns for other in below) <= step.tail_ns + len(below) + 1
        assert step.parent < place
    assert sum(step.tail_own_ns for step in steps) <= sum(expected.values()) + len(steps)


def test_requests_count_as_often_as_they_stand_for() -> None:
    """One of 16 that waits for nothing, one of one that waits for 340 ms: 20 ms in the mean of 17."""
    requests = [booked(sketch(normal(0), 1, EPOCH_NS), 16.0), booked(sketch(normal(340), 2, EPOCH_NS))]
    [pool] = [step for step in path_profile(requests, requests) if step.category == Category.POOL]
    assert pool.tail_ns == pool.body_ns == (10 + 20) * MS


def test_deep_traces_are_cut() -> None:
    steps = path_profile([booked(deep_chain(3_000))], [booked(deep_chain(3_000))])
    assert 0 < len(steps) <= MAX_DEPTH
