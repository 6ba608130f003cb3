"""The list of requests with its filters, and one trace as a waterfall."""

from __future__ import annotations

import re

from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from analysis.errors import NotFound
from analysis.search import TraceFilter, trace_list
from analysis.trace_reports import TraceReport
from analysis.trace_view import span_detail, trace_report
from app.links import BadScope, TraceQuery, milliseconds_ns, parse_span, parse_trace_id, trace_url, traces_url
from app.pages.context import Page
from app.pages.marks import Bar, per_cent, slices_bar
from app.pages.waterfall import ALL_ROWS, waterfall

ROWS_A_PAGE = 50
LEDGER_ROWS = 8
MAX_OFFSET = 1_000_000


async def traces_page(page: Page) -> Response:
    query = _query(page)
    wanted = TraceFilter(
        query.service,
        query.endpoint,
        milliseconds_ns("min_ms", query.min_ms),
        milliseconds_ns("max_ms", query.max_ms),
        query.errors_only,
        query.order,
    )
    found = await page.run(trace_list, wanted, ROWS_A_PAGE, query.offset)
    longest = max((row.duration_ns for row in found.rows), default=0)
    last = query.offset + len(found.rows)
    scope = page.view.scope
    return await page.render(
        "traces.html",
        "traces",
        list=found,
        filters=query,
        endpoints=sorted({name for service, name in found.endpoints if query.service in ("", service)}),
        rows=[
            (
                row,
                (
                    Bar(
                        "failed" if row.outcome != "ok" else "own_code",
                        0.0,
                        per_cent(row.duration_ns / max(longest, 1)),
                    ),
                ),
            )
            for row in found.rows
        ],
        first=query.offset + 1,
        last=last,
        previous_url=traces_url(scope, query.page(query.offset - ROWS_A_PAGE)) if query.offset else "",
        next_url=traces_url(scope, query.page(last)) if last < found.matched else "",
    )


def _query(page: Page) -> TraceQuery:
    order = page.parameter("order") or "slowest"
    if order not in ("slowest", "newest"):
        raise BadScope(f"order={order!r} is not one of slowest, newest")
    offset = page.parameter("offset") or "0"
    if not re.fullmatch(r"\d{1,7}", offset, re.ASCII) or int(offset) > MAX_OFFSET:
        raise BadScope(f"offset={offset!r} is not a number up to {MAX_OFFSET}")
    return TraceQuery(
        page.parameter("service"),
        page.parameter("endpoint"),
        page.parameter("min_ms").strip(),
        page.parameter("max_ms").strip(),
        page.parameter("errors") == "1",
        order,
        int(offset),
    )


async def open_trace(page: Page) -> Response:
    """The form that takes a trace id: goes on to the trace."""
    return RedirectResponse(trace_url(page.view.scope, parse_trace_id("id", page.parameter("id").strip())), 303)


async def trace_page(page: Page) -> Response:
    trace_id = parse_trace_id("trace_id", page.request.path_params["trace_id"])
    all_rows = page.parameter("rows") == "all"
    selected = parse_span(page.parameter("span")) if page.parameter("span") else None
    report = await page.run(trace_report, trace_id, ALL_ROWS, selected)
    span = next((row for row in report.rows if row.span_id == selected), None)
    if selected is not None and span is None:
        raise NotFound(f"trace {trace_id} has no span {page.parameter('span')}")
    detail = await page.run(span_detail, trace_id, selected) if span else None
    scope = page.view.scope
    request_ns = sum(part.duration_ns for part in report.slices)
    shown = sorted(report.slices, key=lambda part: -part.duration_ns)[:LEDGER_ROWS]
    return await page.render(
        "trace.html",
        "traces",
        report=report,
        fall=await run_in_threadpool(waterfall, report, all_rows, selected),
        ledger_bar=slices_bar(report.slices, request_ns),
        slices=[(part, part.duration_ns / max(request_ns, 1)) for part in shown],
        more_slices=_rest(report, request_ns, len(shown)),
        # Relative to this page: 40 bytes less in each of thousands of rows.
        span_base="?" + trace_url(scope, trace_id, None, all_rows).partition("?")[2] + "&span=",
        request_ns=request_ns,
        selected=selected,
        span=span,
        detail=detail,
        offset=span.start_ns - report.start_ns if span else 0,
        whole=page.parameter("whole") == "1",
        whole_url=_whole_url(trace_url(scope, trace_id, selected, all_rows)),
    )


def _rest(report: TraceReport, request_ns: int, shown: int) -> tuple[int, int, float] | None:
    rest = sorted(report.slices, key=lambda part: -part.duration_ns)[shown:]
    total_ns = sum(part.duration_ns for part in rest)
    return (len(rest), total_ns, total_ns / max(request_ns, 1)) if rest else None


def _whole_url(url: str) -> str:
    address, _, anchor = url.partition("#")
    return f"{address}&whole=1#{anchor}"
