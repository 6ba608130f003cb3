"""Why the tail of one endpoint is slow."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from analysis.fixes import fixes
from analysis.ledger import Category
from analysis.reports import Finding, FixesReport, Gain
from analysis.tail import endpoint_report
from app.charts.latency import latency_figure
from app.charts.ledger import difference_figure, ledger_figure
from app.pages.context import Page
from app.pages.icicle import icicles


async def endpoint_page(page: Page) -> Response:
    service, endpoint = page.required("service"), page.required("endpoint")
    report, found = await asyncio.gather(page.run(endpoint_report, service, endpoint), page.run(fixes))
    series = report.series
    order = list(Category)
    return await page.render(
        "endpoint.html",
        "",
        report=report,
        latency=latency_figure(report),
        ledger=ledger_figure(report),
        difference=difference_figure(report),
        differs=any(row.difference_ns > 0 for row in report.ledger),
        category_rows=sorted(
            (row for row in report.category_rows if row.body_mean_ns or row.tail_mean_ns),
            key=lambda row: order.index(row.category),
        ),
        series_rows=list(
            zip(
                series.start_ns,
                series.count,
                series.errors,
                series.p50_ns,
                series.p95_ns,
                series.p99_ns,
                strict=True,
            )
        ),
        icicles=icicles(report.path),
        findings=findings_at(found, service, endpoint),
    )


def findings_at(report: FixesReport, service: str, endpoint: str) -> list[tuple[Finding, Gain]]:
    """Findings that slow this endpoint, wherever they happen, with the gain they promise here, largest first."""
    here = [
        (finding, gain)
        for finding in report.findings
        for gain in finding.gains
        if (gain.service, gain.endpoint) == (service, endpoint)
    ]
    return sorted(here, key=lambda pair: -pair[1].p99_saved_ns)
