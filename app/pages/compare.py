"""Two requests laid over each other."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from analysis.compare import compare_traces
from analysis.trace_reports import PlaceTimes
from app.links import parse_span, parse_trace_id
from app.pages.context import Page
from app.pages.icicle import icicles
from app.pages.marks import slices_bar

MAX_ROWS = 20


async def compare_page(page: Page) -> Response:
    sides = [
        (
            parse_trace_id(trace, page.required(trace).strip()),
            parse_span(page.parameter(span)) if page.parameter(span) else None,
        )
        for trace, span in (("trace", "span"), ("other", "other_span"))
    ]
    report = await page.run(compare_traces, *sides[0], *sides[1])
    longest_ns = max(report.this.duration_ns, report.other.duration_ns)
    other_icicle, this_icicle = icicles(report.path)
    return await page.render(
        "compare.html",
        "traces",
        report=report,
        sides=[
            ("the other", report.other, slices_bar(report.other.slices, longest_ns), other_icicle),
            ("this", report.this, slices_bar(report.this.slices, longest_ns), this_icicle),
        ],
        places=report.places[:MAX_ROWS],
        more_places=_summed(report.places[MAX_ROWS:]),
        calls=report.calls[:MAX_ROWS],
        more_calls=max(len(report.calls) - MAX_ROWS, 0),
    )


def _summed(rows: Sequence[PlaceTimes]) -> tuple[int, int, int, int] | None:
    """Count, the other's time, this one's, and the difference; None of no rows."""
    this_ns, other_ns = sum(row.this_ns for row in rows), sum(row.other_ns for row in rows)
    return (len(rows), other_ns, this_ns, this_ns - other_ns) if rows else None
