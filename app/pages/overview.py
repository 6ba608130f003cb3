"""The first page, and what stands in its place while nothing has arrived."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from starlette.responses import RedirectResponse, Response

from analysis.fixes import fixes
from analysis.overview import overview
from analysis.reports import EndpointRow, FixesReport, ServiceEdge
from app.ingest.demo import load_demo
from app.links import ALL, Scope, overview_url
from app.pages.context import Page
from app.pages.marks import Bar, per_cent, spreads
from app.pages.service_map import service_map
from app.pages.verdict import verdict
from app.store.base import LIVE

TOP_FINDINGS = 3
FIRST_ENDPOINTS = 50
FIRST_EDGES = 50


@dataclass(frozen=True)
class Ports:
    """Where this server receives, as a sender on the same machine writes it."""

    host: str
    http: int
    grpc: int

    @property
    def usual(self) -> bool:
        """Whether SDKs send here without being told (OpenTelemetry protocol exporter specification)."""
        return (self.host, self.http, self.grpc) == ("localhost", 4318, 4317)


async def overview_page(page: Page) -> Response:
    if not page.view.dataset.span_count:
        return await _send(page, first_visit=True)
    report, fixes_report = await asyncio.gather(page.run(overview), page.run(fixes))
    rows = with_profiles(report.endpoints, fixes_report)
    shown = rows if page.parameter("endpoints") == "all" else rows[:FIRST_ENDPOINTS]
    findings = fixes_report.findings[:TOP_FINDINGS]
    return await page.render(
        "overview.html",
        "overview",
        overview=report,
        fixes=fixes_report,
        verdict=verdict(report, fixes_report),
        findings=findings,
        more_findings=len(fixes_report.findings) > len(findings),
        rows=list(zip(shown, spreads(shown), strict=True)),
        hidden_rows=len(shown) < len(rows),
        all_endpoints_url=overview_url(page.view.scope) + "&endpoints=all",
        all_time_url=overview_url(Scope(page.view.scope.dataset_id, ALL)),
        edges=edge_bars(report.edges[:FIRST_EDGES]),
        map=service_map(report.edges),
    )


def with_profiles(rows: tuple[EndpointRow, ...], report: FixesReport) -> tuple[EndpointRow, ...]:
    """The rows with the shares of work, wait and waste that the examined requests gave."""
    profiles = {(profile.service, profile.endpoint): profile for profile in report.profiles if profile.sampled}
    filled = []
    for row in rows:
        profile = profiles.get((row.service, row.endpoint))
        if profile is not None:
            row = replace(
                row,
                work_share=profile.work_share,
                wait_share=profile.wait_share,
                waste_share=profile.waste_share,
            )
        filled.append(row)
    return tuple(filled)


def edge_bars(edges: tuple[ServiceEdge, ...]) -> list[tuple[ServiceEdge, tuple[Bar, ...]]]:
    """Each edge with its total as a share of the largest."""
    longest = max((edge.total_ns for edge in edges), default=0)
    return [(edge, (Bar("remote_call", 0.0, per_cent(edge.total_ns / max(longest, 1))),)) for edge in edges]


async def send_page(page: Page) -> Response:
    return await _send(page, first_visit=False)


async def _send(page: Page, first_visit: bool) -> Response:
    example = next((dataset for dataset in page.view.datasets if dataset.kind == "demo"), None)
    live = next(dataset for dataset in page.view.datasets if dataset.dataset_id == LIVE)
    return await page.render(
        "send.html",
        "overview" if first_visit else "send",
        first_visit=first_visit,
        example_url=overview_url(Scope(example.dataset_id)) if example else "",
        live_spans=live.span_count,
        ports=_ports(page),
    )


def _ports(page: Page) -> Ports:
    settings = page.settings
    anywhere = settings.host in ("127.0.0.1", "::1", "0.0.0.0", "::", "localhost")
    return Ports("localhost" if anywhere else settings.host, settings.http_port, settings.grpc_port)


async def open_example(page: Page) -> Response:
    """Loads the example where it is not there yet, and opens it."""
    loading: asyncio.Lock = page.request.app.state.loading_example
    async with loading:
        example = await load_demo(page.store)
    return RedirectResponse(overview_url(Scope(example.dataset_id)), 303)
