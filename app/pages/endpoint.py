"""Why the tail of one endpoint is slow, or what requests that a reader chose do that its others do not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.responses import Response

from analysis.chosen import chosen_report
from analysis.endpoint_reports import ChosenReport, EndpointReport, Region
from analysis.errors import NotFound
from analysis.fixes import fixes
from analysis.ledger import Category
from analysis.reports import Finding, FixesReport, Gain
from analysis.tail import endpoint_report
from analysis.wording import duration_text
from app.charts.latency import latency_figure
from app.charts.ledger import difference_figure, ledger_figure
from app.links import REGION_PARAMETERS, parse_region
from app.pages.context import Page
from app.pages.icicle import icicles
from app.pages.rendering import instant_short


@dataclass(frozen=True)
class CohortNames:
    """What to call the two cohorts that a page holds against each other."""

    slow: str
    normal: str
    another: str
    cut: bool = False
    """Whether one duration parts the two."""


_TAIL = CohortNames("slow", "normal", "a normal one")
_KEPT = CohortNames("slow", "shorter", "a shorter one", cut=True)
_CHOSEN = CohortNames("chosen", "other", "another")


async def endpoint_page(page: Page) -> Response:
    service, endpoint = page.required("service"), page.required("endpoint")
    region = parse_region(page.request.query_params)
    report, found, chosen = await asyncio.gather(
        page.run(endpoint_report, service, endpoint), page.run(fixes), _chosen(page, service, endpoint, region)
    )
    shown: EndpointReport | ChosenReport = chosen or report
    names = _CHOSEN if chosen else _KEPT if report.withheld and not report.body_low_ns else _TAIL
    series = report.series
    order = list(Category)
    return await page.render(
        "endpoint.html",
        "",
        report=report,
        chosen=chosen,
        shown=shown,
        names=names,
        region={name: page.parameter(name) for name in REGION_PARAMETERS},
        region_words=region_words(region) if region else "",
        bucket_of=lambda start_ns: Region(start_ns, start_ns + series.bucket_ns),
        latency=latency_figure(report, region),
        ledger=ledger_figure(shown.category_rows, names.normal, names.slow),
        difference=difference_figure(shown.ledger),
        differs=any(row.difference_ns > 0 for row in shown.ledger),
        category_rows=sorted(
            (row for row in shown.category_rows if row.body_mean_ns or row.tail_mean_ns),
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
        icicles=icicles(shown.path),
        findings=findings_at(found, service, endpoint),
    )


async def _chosen(page: Page, service: str, endpoint: str, region: Region | None) -> ChosenReport | None:
    """None where nothing was chosen, or nothing is there: the page then shows the tail."""
    if region is None:
        return None
    try:
        return await page.run(chosen_report, service, endpoint, region)
    except NotFound:
        return None


def region_words(region: Region) -> str:
    """`began between … and …, and took between 1.20 s and 2.40 s`."""
    ends = Region()
    began = _between(
        instant_short(region.from_ns) if region.from_ns != ends.from_ns else "",
        instant_short(region.to_ns) if region.to_ns != ends.to_ns else "",
        ("at or after", "before"),
    )
    took = _between(
        duration_text(region.low_ns) if region.low_ns != ends.low_ns else "",
        duration_text(region.high_ns) if region.high_ns != ends.high_ns else "",
        ("at least", "less than"),
    )
    return ", and ".join(f"{verb} {bounds}" for verb, bounds in (("began", began), ("took", took)) if bounds)


def _between(low: str, high: str, alone: tuple[str, str]) -> str:
    if low and high:
        return f"between {low} and {high}"
    return f"{alone[0]} {low}" if low else f"{alone[1]} {high}" if high else ""


def findings_at(report: FixesReport, service: str, endpoint: str) -> list[tuple[Finding, Gain]]:
    """Findings that slow this endpoint, wherever they happen, with the gain they promise here, largest first."""
    here = [
        (finding, gain)
        for finding in report.findings
        for gain in finding.gains
        if (gain.service, gain.endpoint) == (service, endpoint)
    ]
    return sorted(here, key=lambda pair: -pair[1].p99_saved_ns)
