"""Work that goes on after its parent: learned by call path, over all traces that are looked at together."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from analysis.critical_path import critical_path
from analysis.node import Node
from analysis.semantics import OperationClass
from analysis.span import Kind, Span
from analysis.trace import Trace, build_traces
from tests.random_traces import span

MS = 1_000_000


def request(number: int, child_end_ms: float, **parent: str) -> list[Span]:
    """A request of 100 ms whose task begins after 10 ms; sending a mail is part of the task."""
    task = {"operation": "task", "name": "task"}
    mail = {"operation": "SMTP", "kind": Kind.CLIENT, "operation_class": OperationClass.RPC}
    middle_ms = (10 + child_end_ms) / 2
    spans = [
        span(1, 0, 0, 100 * MS, operation="GET /", **parent),
        span(2, 1, 10 * MS, round(child_end_ms * MS), **task),
        span(3, 2, round(middle_ms * MS), round(child_end_ms * MS), **mail),
    ]
    return [one._replace(trace_id=f"{number:032x}") for one in spans]


def tasks(traces: Sequence[Trace]) -> list[Node]:
    return [trace.nodes[2] for trace in traces]


def requests(after: int, of: int) -> list[list[Span]]:
    """So many requests; the tasks of the first `after` end 20 ms after their request."""
    return [request(number, 120 if number <= after else 60) for number in range(1, of + 1)]


@pytest.mark.parametrize(("after", "of"), [(2, 10), (14, 20), (20, 20)])
def test_a_task_that_often_outlives_its_request_is_never_waited_for(after: int, of: int) -> None:
    traces = build_traces(requests(after, of))
    assert not any(task.awaited for task in tasks(traces))
    for trace in traces:
        assert [section.node for section in critical_path(trace.roots[0])] == [trace.roots[0]]
    said = f"{after} of {of} such calls ended after their parents"
    notes = {note for task in tasks(traces) for note in task.notes}
    inside = {f"not waited for: {said}"} if after < of else set()
    assert notes == {f"continues after the response: {said}", *inside}


@pytest.mark.parametrize(("after", "of"), [(1, 10), (3, 20)])
def test_a_call_that_seldom_outlives_its_request_was_waited_for_up_to_there(after: int, of: int) -> None:
    traces = build_traces(requests(after, of))
    assert all(task.awaited for task in tasks(traces))
    outlived = traces[0]
    assert outlived.nodes[2].notes == [f"ended 20.000 ms after its parent, as {after} of {of} such calls did; clipped"]
    # Mail goes from 65 to 120 ms; after 100 ms nobody waits for it.
    path = [(section.node.span.span_id, section.duration_ns / MS) for section in critical_path(outlived.roots[0])]
    assert path == [(1, 10), (2, 55), (3, 35)]
    assert outlived.nodes[3].notes == ["ended 20.000 ms after its parent; clipped"]


def test_of_few_calls_each_is_judged_by_itself() -> None:
    traces = build_traces(requests(1, 9))
    assert [task.awaited for task in tasks(traces)] == [False] + [True] * 8
    assert tasks(traces)[0].notes == ["continues after the response: it ended after its parent"]


def test_a_request_that_failed_may_have_given_up_waiting() -> None:
    failed = [request(number, 120, outcome="error") for number in range(1, 11)]
    traces = build_traces([*failed, *(request(number, 60) for number in range(11, 21))])
    assert all(task.awaited for task in tasks(traces))
    assert tasks(traces)[0].notes == ["ended 20.000 ms after its parent, as 0 of 10 such calls did; clipped"]
    assert not any(task.awaited for task in tasks(build_traces(failed))), "nothing is known of requests that succeed"


def test_a_call_path_is_told_apart_by_what_is_above_it() -> None:
    other = [[one._replace(trace_id=f"{900 + n:032x}") for one in request(n, 60)] for n in range(10)]
    renamed = [[one._replace(operation="GET /other") if one.span_id == 1 else one for one in spans] for spans in other]
    traces = build_traces([*requests(10, 10), *renamed])
    assert [task.awaited for task in tasks(traces)] == [False] * 10 + [True] * 10


def test_another_service_that_outlives_its_caller_is_cut_at_the_caller() -> None:
    traces = [
        [
            span(1, 0, 0, 100 * MS, trace_id=f"{number:032x}"),
            span(2, 1, 10 * MS, 120 * MS, kind=Kind.SERVER, service="b", trace_id=f"{number:032x}"),
        ]
        for number in range(20)
    ]
    assert all(task.awaited for task in tasks(build_traces(traces)))


def test_the_order_of_traces_and_spans_changes_nothing() -> None:
    def told(traces: list[list[Span]]) -> dict[str, tuple[bool, tuple[str, ...]]]:
        built = build_traces(traces)
        return {trace.trace_id: (trace.nodes[2].awaited, tuple(trace.nodes[2].notes)) for trace in built}

    traces = requests(3, 13)
    mixed = [random.Random(number).sample(spans, len(spans)) for number, spans in enumerate(traces)]
    random.Random(1).shuffle(mixed)
    assert told(mixed) == told(traces)
