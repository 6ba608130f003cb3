"""Two requests laid over each other: places and calls by hand, and what must hold for any two."""

from __future__ import annotations

import pytest

from analysis.compare import compare_traces
from analysis.errors import NotFound
from analysis.ledger import Category
from analysis.span import Spans
from analysis.trace_reports import CallCounts, TraceComparison
from tests.stored import sketched_batch, stored

MS = 1_000_000
FAST = """
shop  GET /cart                     0..30
  stock  GET /items                 5..25
    stock  SELECT items             8..18 db
"""
SLOW = """
shop  GET /cart                     0..130
  stock  GET /items                 5..65 error
    stock  checkout                 8..48 pool
    stock  SELECT items             50..60 db
  stock  GET /items                85..115
    stock  SELECT items             88..108 db
"""
BESIDE = """
shop  GET /cart                     0..30
  stock  GET /items                 5..25
    stock  SELECT items             8..18 db
  shop  send receipt                26..27 producer
    worker  run/receipt             40..400 consumer
"""


def trace_id(number: int) -> str:
    return f"{number:032x}"


def compared(this: str, other: str) -> tuple[TraceComparison, TraceComparison]:
    """One way and the other way round."""
    with stored([sketched_batch([this, other])]) as spans:
        return by_id(spans, 1, 2), by_id(spans, 2, 1)


def by_id(spans: Spans, this: int, other: int) -> TraceComparison:
    return compare_traces(spans, trace_id(this), None, trace_id(other), None)


def test_places_and_calls_by_hand() -> None:
    report, _ = compared(SLOW, FAST)
    assert (report.this.duration_ns, report.other.duration_ns) == (130 * MS, 30 * MS)
    times = {row.category: (row.this_ns / MS, row.other_ns / MS) for row in report.places}
    # The first attempt failed: its 60 ms are wasted whatever was done in them, and 20 ms pass until the next.
    assert times[Category.FAILED_ATTEMPTS] == (60, 0)
    assert times[Category.BACKOFF] == (20, 0)
    assert times[Category.DATABASE] == (20, 10)
    assert report.places[0].category == Category.FAILED_ATTEMPTS
    assert report.calls == (
        CallCounts("shop", "→ stock GET /items", 2, 1),
        CallCounts("stock", "SELECT items", 2, 1),
        CallCounts("stock", "connect", 1, 0),
    )
    assert report.sentence.startswith(
        "This request took 130 ms, the other 30.0 ms. It spent 60.0 ms more in attempts that failed ("
    )
    assert "(60 % of the difference)" in report.sentence
    assert "20.0 ms more backing off between attempts" in report.sentence


@pytest.mark.parametrize(("this", "other"), [(SLOW, FAST), (FAST, BESIDE), (BESIDE, SLOW), (SLOW, SLOW)])
def test_both_columns_add_up_and_the_other_way_round_is_the_same(this: str, other: str) -> None:
    report, back = compared(this, other)
    assert sum(row.this_ns for row in report.places) == report.this.duration_ns
    assert sum(row.other_ns for row in report.places) == report.other.duration_ns
    assert {(row.category, row.label, row.this_ns, row.other_ns) for row in report.places} == {
        (row.category, row.label, row.other_ns, row.this_ns) for row in back.places
    }
    assert {(row.name, row.this, row.other) for row in report.calls} == {
        (row.name, row.other, row.this) for row in back.calls
    }
    top = [step for step in report.path if step.depth == 0]
    assert sum(step.tail_ns for step in top) == report.this.duration_ns
    assert sum(step.body_ns for step in top) == report.other.duration_ns


def test_the_faster_one_spends_less() -> None:
    _, report = compared(SLOW, FAST)
    assert "It spent 60.0 ms less in attempts that failed" in report.sentence


def test_requests_that_take_as_long_are_said_to() -> None:
    report, _ = compared(SLOW, SLOW)
    assert report.sentence == "This request took 130 ms, the other 130 ms: about as long."
    assert report.calls == ()
    assert all(row.difference_ns == 0 for row in report.places)


def test_calls_beside_the_path_count_and_jobs_are_requests_of_their_own() -> None:
    with stored([sketched_batch([BESIDE, FAST])]) as spans:
        report = by_id(spans, 1, 2)
        job = next(
            span_id
            for span_id, service in spans.rows("select span_id, service from trace_spans order by span_id")
            if service == "worker"
        )
        of_the_job = compare_traces(spans, trace_id(1), job, trace_id(2), None)
    assert [(row.this, row.other) for row in report.calls] == [(1, 0)]
    assert (of_the_job.this.endpoint, of_the_job.this.duration_ns) == ("run/receipt", 360 * MS)


def test_a_request_inside_a_trace_is_compared_with_its_like() -> None:
    """An endpoint's examples are requests that others wait for: they and not their callers are laid over each other."""
    with stored([sketched_batch([SLOW, FAST])]) as spans:
        inner = spans.rows(
            "select span_id from trace_spans where trace_id = $id::uuid and service = 'stock' and kind = 2 "
            "order by start_ns",
            id=trace_id(1),
        )
        report = compare_traces(spans, trace_id(1), inner[0][0], trace_id(2), None)
        back = compare_traces(spans, trace_id(2), None, trace_id(1), inner[0][0])
        longest = compare_traces(spans, trace_id(2), report.other.span_id, trace_id(1), None)
        query = spans.rows("select span_id from trace_spans where operation_class = 'pool' order by span_id")[0][0]
        waiting = compare_traces(spans, trace_id(1), query, trace_id(2), None)
    # A server span begins half a millisecond after its client and ends as much before it.
    assert (report.this.service, report.this.duration_ns) == ("stock", 59 * MS)
    assert (report.other.service, report.other.duration_ns) == ("stock", 19 * MS)
    assert (back.this.service, back.other.service) == ("shop", "stock")
    assert longest.other.duration_ns == 59 * MS, "the longest of two"
    assert (waiting.this.service, waiting.other.service) == ("shop", "shop"), "a call stands for who waits for it"


def test_what_is_not_there_is_named() -> None:
    with stored([sketched_batch([FAST])]) as spans:
        with pytest.raises(NotFound, match=trace_id(9)):
            by_id(spans, 1, 9)
        with pytest.raises(NotFound, match="00000000000000ff"):
            compare_traces(spans, trace_id(1), 255, trace_id(1), None)
