"""A trace page judges clocks and what was waited for as an endpoint's page does: by other traces too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from analysis.neighbours import NEIGHBOURS, trace_among_neighbours
from analysis.span import Kind, Spans
from analysis.trace import Trace
from tests.stored import Drawn, stored


def trace_id(number: int) -> str:
    return f"{number:032x}"


@contextmanager
def requests(ends_ms: Sequence[float], apart_ms: float = 100) -> Iterator[Spans]:
    """Requests of 100 ms, one after another, whose tasks of 10 ms on end so late; the first is trace 1."""
    drawn = Drawn()
    for number, end_ms in enumerate(ends_ms):
        at_ms = number * apart_ms
        root = drawn.add("api", "GET /", at_ms, at_ms + 100, kind=Kind.SERVER, trace=number + 1)
        drawn.add("api", "task", at_ms + 10, at_ms + end_ms, kind=Kind.INTERNAL, parent=root, trace=number + 1)
    with stored([drawn.batch()]) as spans:
        yield spans


def task_notes(trace: Trace) -> list[str]:
    return next(node.notes for node in trace.walk() if node.span.name == "task")


def test_a_task_that_outlives_only_this_request_was_waited_for() -> None:
    with requests([120] + [60] * 30) as spans:
        trace = trace_among_neighbours(spans, trace_id(1))
    assert task_notes(trace) == [f"ended 20.000 ms after its parent, as 1 of {NEIGHBOURS + 1} such calls did; clipped"]
    assert trace.notes == (
        f"clocks and what was waited for are judged from this trace and {NEIGHBOURS} others of its endpoint near it",
    )


def test_a_task_that_outlives_each_request_goes_on_behind_this_one() -> None:
    with requests([120] * 12) as spans:
        trace = trace_among_neighbours(spans, trace_id(1))
    assert task_notes(trace) == ["continues after the response: 12 of 12 such calls ended after their parents"]


def test_a_trace_whose_times_fit_is_judged_alone() -> None:
    with requests([60] + [120] * 12) as spans:
        trace = trace_among_neighbours(spans, trace_id(1))
    assert trace.notes == ()
    assert task_notes(trace) == []


def test_the_nearest_in_time_are_asked_and_none_that_is_far() -> None:
    with requests([120] + [60] * 12, apart_ms=61_000) as spans:
        trace = trace_among_neighbours(spans, trace_id(1))
    assert trace.notes == ()
    assert task_notes(trace) == ["continues after the response: it ended after its parent"]


def test_a_trace_that_is_not_there_has_no_spans() -> None:
    with requests([60]) as spans:
        assert trace_among_neighbours(spans, trace_id(9)).roots == ()
