"""Two requests laid over each other."""

from __future__ import annotations

from starlette.responses import Response

from analysis.compare import compare_traces
from analysis.ledger import Category
from analysis.trace_reports import PlaceTimes
from app.links import parse_span, parse_trace_id
from app.pages.context import Page
from app.pages.icicle import icicles
from app.pages.marks import slices_bar

MAX_ROWS = 20


async def compare_page(page: Page) -> Response:
    sides = [
        (
            parse_trace_id(page.required(trace).strip()),
            parse_span(page.parameter(span)) if page.parameter(span) else None,
        )
        for trace, span in (("trace", "span"), ("other", "other_span"))
    ]
    report = await page.run(compare_traces, *sides[0], *sides[1])
    longest_ns = max(report.this.duration_ns, report.other.duration_ns)
    other_icicle, this_icicle = icicles(report.path)
    rest = report.places[MAX_ROWS:]
    return await page.render(
        "compare.html",
        "traces",
        report=report,
        sides=[
            ("the other", report.other, slices_bar(report.other.slices, longest_ns), other_icicle),
            ("this", report.this, slices_bar(report.this.slices, longest_ns), this_icicle),
        ],
        places=report.places[:MAX_ROWS],
        more_places=len(rest),
        rest=PlaceTimes(Category.UNACCOUNTED, "", sum(row.this_ns for row in rest), sum(row.other_ns for row in rest)),
        calls=report.calls[:MAX_ROWS],
        more_calls=max(len(report.calls) - MAX_ROWS, 0),
    )
