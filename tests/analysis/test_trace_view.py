"""The waterfall: rows, the request it is about, attempts, corrections, and everything a sender said about a span."""

from __future__ import annotations

import pytest

from analysis.errors import NotFound
from analysis.ledger import Category
from analysis.span import Kind
from analysis.trace import build_trace
from analysis.trace_view import span_detail, trace_report, view
from tests.captures import capture
from tests.random_traces import span
from tests.sketched import drawn_trace
from tests.stored import sketched_batch, stored

MS = 1_000_000

SHOP = """
api  POST /orders             0..100
  stock  POST /reserve        5..25 error
  stock  POST /reserve       30..50
  api  send receipt          60..62 producer
    worker  run/receipt      80..400 consumer
      worker  SELECT 1       90..390 db
"""


def test_rows_are_depth_first_with_attempts_and_critical_parts() -> None:
    report = view(drawn_trace(SHOP))
    assert [(row.depth, row.service, row.name, row.attempt) for row in report.rows] == [
        (0, "api", "POST /orders", 0),
        (1, "api", "POST /reserve", 1),
        (2, "stock", "POST /reserve", 0),
        (1, "api", "POST /reserve", 2),
        (2, "stock", "POST /reserve", 0),
        (1, "api", "send receipt", 0),
        (2, "worker", "run/receipt", 0),
        (3, "worker", "SELECT 1", 0),
    ]
    assert sum(row.critical_ns for row in report.rows) == 100 * MS
    assert report.rows[-1].critical == ()
    assert report.rows[0].self_ns == (100 - 20 - 20 - 2) * MS
    assert report.duration_ns == 400 * MS
    assert {part.category for part in report.slices} >= {Category.FAILED_ATTEMPTS, Category.BACKOFF, Category.MESSAGING}


def test_a_span_of_a_job_makes_the_job_the_request() -> None:
    trace = drawn_trace(SHOP)
    query = next(node.span.span_id for node in trace.walk() if node.span.name == "SELECT 1")
    report = view(trace, span_id=query)
    assert (report.root_service, report.root_endpoint) == ("worker", "run/receipt")
    assert sum(part.duration_ns for part in report.slices) == 320 * MS
    assert [(other.service, other.endpoint) for other in report.others] == [("api", "POST /orders")]
    inner = next(node.span.span_id for node in trace.walk() if node.span.service == "stock")
    assert view(trace, span_id=inner).root_endpoint == "POST /orders"


def test_limit_cuts_rows_and_not_counts() -> None:
    report = view(drawn_trace(SHOP), limit=3)
    assert (len(report.rows), report.span_count, report.error_count) == (3, 8, 2)


def test_orphans_are_said() -> None:
    report = view(build_trace([span(1, 9, 0, 10), span(2, 8, 5, 20)]))
    assert report.notes == ("2 spans name a parent that was not received; they are shown as roots",)
    assert [row.notes for row in report.rows] == [("parent not received",)] * 2


def test_everything_that_was_said_about_a_span() -> None:
    with stored([sketched_batch(["a  GET /x  0..20 timeout\n  a  SELECT 1  2..5 db"])]) as spans:
        report = trace_report(spans, f"{1:032x}")
        root, query = (span_detail(spans, report.trace_id, row.span_id) for row in report.rows)
        assert '"http.route":"/x"' in root.attributes.replace(" ", "")
        assert [event[1] for event in root.events] == ["exception"]
        assert '"service.name":"a"' in root.resource.replace(" ", "")
        assert query.events == ()
        assert query.scope_name == "sketch"
        with pytest.raises(NotFound, match="no span 0000000000000005"):
            span_detail(spans, report.trace_id, 5)
        with pytest.raises(NotFound, match="no span of trace"):
            trace_report(spans, "f" * 32)


@pytest.mark.parametrize("mode", ["new", "old"])
def test_the_first_run_of_a_job_that_was_retried_is_attempt_1(mode: str) -> None:
    with capture("11_celery", mode) as spans:
        ids = spans.rows("select distinct replace(trace_id::varchar, '-', '') as id from spans order by id")
        rows = [row for (trace_id,) in ids for row in trace_report(spans, trace_id).rows]
    attempts: dict[str, list[int]] = {}
    for row in rows:
        if row.kind == Kind.CONSUMER:
            attempts.setdefault(row.name, []).append(row.attempt)
    assert attempts["run/cel.flaky"] == [1, 2, 3]
    assert attempts["run/cel.exhausts"] == [1, 2]
    assert attempts["run/cel.bad"] == [0]
