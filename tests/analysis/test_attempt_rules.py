"""Attempts: the rules that single traces and SQL's candidates share, and that many attempts cost no more than many."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from analysis.accounting import request_ledger
from analysis.attempt_groups import attempt_groups
from analysis.attempt_rules import DRIVER_SLACK_NS, Covering
from analysis.attempts import hidden_retries
from analysis.ledger import Category
from analysis.semantics import OperationClass, ParentOrigin
from analysis.span import Kind, Span
from analysis.trace import Trace, build_trace
from tests.random_traces import span
from tests.stored import Drawn, stored

MS = 1_000_000
HTTP = {"kind": Kind.CLIENT, "operation_class": OperationClass.HTTP, "operation": "GET /x"}


def answered(*answers: tuple[str, str, float, float, int]) -> tuple[bool, bool]:
    """Whether one client span with these servers (service, path, start, end, status) is a retry: by trace, by SQL."""
    drawn = Drawn()
    spans = [
        span(1, 0, 0, 400 * MS, service="gateway"),
        span(2, 1, 0, 400 * MS, service="gateway", **HTTP),
    ]
    root = drawn.add("gateway", "GET /", 0, 400, kind=Kind.SERVER)
    client = drawn.add("gateway", "GET", 0, 400, parent=root, attributes={"http.request.method": "GET"})
    for number, (service, path, start, end, status) in enumerate(answers):
        drawn.add(
            service,
            f"GET {path}",
            start,
            end,
            kind=Kind.SERVER,
            parent=client,
            remote=True,
            attributes={
                "http.request.method": "GET",
                "http.route": path,
                "http.response.status_code": status,
            },
        )
        spans.append(
            span(
                3 + number,
                2,
                round(start * MS),
                round(end * MS),
                kind=Kind.SERVER,
                service=service,
                endpoint=f"GET {path}",
                outcome="error" if status >= 500 else "ok",
                http_status=status,
            )
        )
    with stored([drawn.batch()]) as stored_spans:
        calls, _ = hidden_retries(stored_spans)
    return bool(attempt_groups(build_trace(spans).nodes[2])), bool(calls)


@pytest.mark.parametrize(
    ("answers", "retried"),
    [
        ([("stock", "/x", 1, 10, 503), ("stock", "/x", 20, 30, 200)], True),
        ([("stock", "/x", 1, 10, 503), ("stock", "/y", 20, 30, 200)], False),
        ([("stock", "/x", 1, 10, 503), ("cart", "/x", 20, 30, 200)], False),
        ([("stock", "/x", 1, 100, 503), ("stock", "/x", 1.5, 90, 200)], False),
        ([("stock", "/x", 1, 10, 200), ("stock", "/x", 20, 30, 200)], False),
    ],
    ids=["failed first", "another endpoint", "another service", "side by side", "both answered"],
)
def test_both_tiers_see_the_same_hidden_retries(
    answers: list[tuple[str, str, float, float, int]], retried: bool
) -> None:
    assert answered(*answers) == (retried, retried)


def test_a_callee_that_was_given_up_counts_in_sql_only() -> None:
    """On the critical path it would hide the attempt that answered."""
    assert answered(("stock", "/x", 1, 300, 200), ("stock", "/x", 110, 120, 200)) == (False, True)


def test_a_call_more_than_a_minute_after_a_failure_is_no_retry() -> None:
    for pause_s, groups in ((59, 1), (61, 0)):
        start = (10 + 1000 * pause_s) * MS
        trace = build_trace(
            [
                span(1, 0, 0, 200_000 * MS),
                span(2, 1, 0, 10 * MS, outcome="error", **HTTP),
                span(3, 1, start, start + 5 * MS, **HTTP),
            ]
        )
        assert len(attempt_groups(trace.roots[0])) == groups


def test_a_driver_s_span_is_covered_by_any_statement_that_began_before() -> None:
    covering = Covering([(50, 60), (0, 100), (200, 300)])
    assert covering.covers(55, 100 + DRIVER_SLACK_NS)
    assert not covering.covers(55, 101 + DRIVER_SLACK_NS)
    assert not Covering([(10, 20)]).covers(9, 15)


def failing_calls(count: int) -> list[Span]:
    return [span(1, 0, 0, count * 4 * MS)] + [
        span(i, 1, i * MS, i * MS + MS // 2, outcome="error", **HTTP) for i in range(2, count + 2)
    ]


def lost_parents(count: int) -> list[Span]:
    return [
        span(1, 0, 0, count * 20 * MS),
        *(span(i, 1, i * 20 * MS - 40 * MS, i * 20 * MS - 30 * MS) for i in range(2, count + 2)),
        *(
            span(
                count + i,
                10**9,
                i * 20 * MS - 28 * MS,
                i * 20 * MS - 26 * MS,
                parent_origin=ParentOrigin.LOCAL,
            )
            for i in range(2, count + 2)
        ),
    ]


def queries_with_driver(count: int) -> list[Span]:
    query = {"kind": Kind.CLIENT, "operation_class": OperationClass.DATABASE, "operation": "SELECT ?"}
    outer = {"scope_name": "opentelemetry.instrumentation.sqlalchemy", **query}
    return [
        span(1, 0, 0, count * 2 * MS),
        *(span(2 * i, 1, i * MS, i * MS + 900_000, **outer) for i in range(1, count + 1)),
        *(span(2 * i + 1, 1, i * MS + 10, i * MS + 800_000, **query) for i in range(1, count + 1)),
    ]


@pytest.mark.parametrize(
    ("spans", "category", "total_ms"),
    [
        (failing_calls(6000), Category.BACKOFF, 5999 * 0.5),
        (lost_parents(6000), Category.UNACCOUNTED, 6000 * 2),
        (queries_with_driver(20_000), Category.DATABASE, 20_000 * 0.9),
    ],
    ids=["attempts", "lost parents", "driver copies"],
)
def test_thousands_of_siblings_take_no_quadratic_time(spans: list[Span], category: Category, total_ms: float) -> None:
    def timed(work: Callable[[], Trace]) -> tuple[Trace, float]:
        began = time.process_time()
        return work(), time.process_time() - began

    trace, build_s = timed(lambda: build_trace(spans))
    began = time.process_time()
    ledger = request_ledger(trace, max(trace.roots, key=lambda root: root.duration_ns))
    assert ledger.by_category()[category] == total_ms * MS
    # 0.1 to 0.4 s; comparing each with each took 20 to 40 s.
    assert build_s + time.process_time() - began < 5
