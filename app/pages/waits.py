"""Where requests wait, and what retries cost."""

from __future__ import annotations

from starlette.responses import Response

from analysis.queueing import queue_waits
from analysis.reports import QueueRow, RetriesReport, RetryEdge
from analysis.retries import retry_costs
from analysis.wording import count_text, duration_text, share_text
from app.charts.queueing import queue_figure
from app.charts.retries import attempts_figure, backoff_figure
from app.pages.context import Page

BACKOFF_SHAPES = {
    "none": "no backoff",
    "constant": "always the same",
    "growing": "growing, without jitter",
    "jittered": "with jitter",
    "unknown": "too few to tell",
}
CHARTS = 12
"""Waits and edges that get their own section; the table above has all."""


async def queues_page(page: Page) -> Response:
    report = await page.run(queue_waits)
    return await page.render(
        "queues.html",
        "queues",
        report=report,
        rows=[(row, queue_figure(row) if row.start_ns else None) for row in report.rows[:CHARTS]],
        sentence=wait_sentence(report.rows) if report.rows else "",
    )


def wait_sentence(rows: tuple[QueueRow, ...]) -> str:
    """The wait that costs most, in one sentence."""
    worst = rows[0]
    if not worst.waited:
        return f"No wait of more than 1 ms in {count_text(sum(row.count for row in rows))} that were seen."
    p95 = f", p95 {duration_text(worst.p95.value_ns)}" if worst.p95.value_ns is not None else ""
    share = share_text(worst.waited / worst.count if worst.count else 0.0)
    return (
        f"{worst.service} loses most at {worst.kind} {worst.name}: {duration_text(worst.total_ns)} in all, "
        f"{share} of {count_text(worst.count)} had to wait{p95}, the longest {duration_text(worst.max_ns)}."
    )


async def retries_page(page: Page) -> Response:
    report = await page.run(retry_costs)
    return await page.render(
        "retries.html",
        "retries",
        report=report,
        rows=[(edge, attempts_figure(edge), _backoff(edge)) for edge in report.edges[:CHARTS]],
        sentence=retry_sentence(report) if report.edges else "",
        backoff_shapes=BACKOFF_SHAPES,
    )


def retry_sentence(report: RetriesReport) -> str:
    """The edge whose retries cost most, in one sentence."""
    worst = report.edges[0]
    return (
        f"{worst.caller} → {worst.callee or 'a callee that is not named'} makes {worst.amplification:.2f} attempts a "
        f"call: {count_text(worst.retried_calls)} of {count_text(worst.calls)} calls were tried again, "
        f"{duration_text(worst.wasted_ns)} went into failed attempts and {duration_text(worst.backoff_ns)} into pauses."
    )


def _backoff(edge: RetryEdge) -> tuple[dict[str, object], list[tuple[int, int, int, int, int]]] | None:
    """The chart of pauses and its table: (after attempt, pauses, shortest, median, longest)."""
    if not any(edge.backoff_gaps_ns):
        return None
    table = [
        (after, len(gaps), min(gaps), sorted(gaps)[len(gaps) // 2], max(gaps))
        for after, gaps in enumerate(edge.backoff_gaps_ns, start=1)
        if gaps
    ]
    return backoff_figure(edge), table
