"""What the server itself receives, stores and refuses, and how long it takes over it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from analysis.wording import count_text, duration_text
from app.charts.ingest import ingest_figure
from app.ingest.errors import Reason
from app.links import BadScope
from app.measuring.durations import DurationSummary
from app.measuring.recent import CountSeries
from app.pages.context import open_page
from app.pages.rendering import View, bytes_text, render
from app.self_report import SelfReport, self_report
from app.store.base import StoreError

ENOUGH = 100
"""Below so many durations the p99 is simply the longest."""
SERVICES_SHOWN = 50
_SCOPE_IS_READ_S = 2.0
_LATE_NS = 250_000_000
_LITTLE_DISK_BYTES = 2**30
_LEAST_STEPS = 12

REASONS = {
    Reason.QUEUE_FULL: ("The queue was full", "Fewer or larger batches help, and SPANWISE_INGEST_QUEUE_BYTES."),
    Reason.ARRIVING: ("Too many bodies were arriving at once", "SPANWISE_INGEST_QUEUE_BYTES holds more of them."),
    Reason.NOT_TAKING: ("The server was starting or stopping", "Senders come again by themselves."),
    Reason.DEADLINE: ("Not stored in time", "The disk or the decoding is too slow: see the times above."),
    Reason.NO_ROOM: ("No room on the disk or in memory", "Free some disk, delete a dataset, or allow more memory."),
    Reason.STORE_FAILED: ("The store failed", "The server's log has the reason."),
    Reason.TOO_LARGE: ("The body was too large", "Smaller batches (OTEL_BSP_MAX_EXPORT_BATCH_SIZE) help."),
    Reason.BAD_PAYLOAD: ("The body could not be read", "The exporter sends something else than OTLP traces."),
    Reason.UNSUPPORTED_ENCODING: ("Unknown Content-Encoding", "gzip, deflate and zstd are understood."),
    Reason.UNSUPPORTED_MEDIA: ("Unknown Content-Type", "Protobuf and JSON are understood."),
    Reason.BODY_TIMEOUT: ("The body did not arrive in time", "SPANWISE_BODY_TIMEOUT_S is how long it may take."),
    Reason.SENDER_LEFT: ("The sender left before it was answered", "Its own timeout may be too short."),
    Reason.FAILED: ("Spanwise failed", "The server's log has the reason."),
}


@dataclass(frozen=True)
class IngestVerdict:
    """The first sentence of the page."""

    tone: str
    """`calm`, `slow`, `broken` or `unsure`."""
    text: str


@dataclass(frozen=True)
class TimesRow:
    """One line of a table of durations."""

    name: str
    meaning: str
    summary: DurationSummary
    few: bool
    """Whether the p99 is only the longest of a few."""


async def ingest_page(request: Request) -> Response:
    """Answers in any scope, and while the store does not: then above all."""
    return await run_in_threadpool(ingest_document, await _view(request), await self_report(request.app.state))


async def _view(request: Request) -> View | None:
    try:
        async with asyncio.timeout(_SCOPE_IS_READ_S):
            return (await open_page(request)).view
    except (BadScope, StoreError, TimeoutError):
        return None


def ingest_document(view: View | None, report: SelfReport) -> HTMLResponse:
    """The page for a report."""
    stats = report.ingest
    series = stats.recent
    shown = stats.services[:SERVICES_SHOWN]
    return render(
        "ingest.html",
        view,
        "ingest",
        report=report,
        stats=stats,
        verdict=verdict(report),
        window=_minutes(series.window_s),
        stored=series.total("accepted"),
        stored_per_s=series.total("accepted") / max(_seconds_seen(report), 1),
        busiest_per_s=max(series.counts["accepted"]) / series.step_s,
        # A server that started a moment ago has no ten minutes to show.
        figure=ingest_figure(series.since(stats.started_ns, _LEAST_STEPS))
        if any(map(any, series.counts.values()))
        else None,
        steps=_steps(series),
        times=[
            _times("Answer", "from a complete body to stored spans: what a sender waits", stats.answer),
            _times("Queue and commit", "from decoded spans to the end of their commit", stats.wait),
            _times("Commit", "one transaction, of all that was queued", stats.commit),
            _times("Event loop", "how late it wakes up: what every request waits, pages too", report.loop_lag),
        ],
        refusals=[(each, *REASONS[Reason(each.reason)], _ago(report, each.last_ns)) for each in stats.refusals],
        rejections=[(each, _ago(report, each.last_ns)) for each in stats.rejections],
        services=[(each, _ago(report, each.last_ns)) for each in shown],
        hidden_services=len(stats.services) - len(shown),
        analyses=[(each, _times(each.name, "", each.durations)) for each in report.queries.analyses],
    )


def verdict(report: SelfReport) -> IngestVerdict:
    """What an operator has to know first, with its numbers; later sentences add what makes it worse."""
    first = _first(report)
    more = []
    lag = report.loop_lag
    if lag.max_ns >= _LATE_NS:
        late = duration_text(lag.max_ns)
        more.append(f"The event loop was held up for {late} in the last {_minutes(lag.window_s)}.")
    free = report.store.free_disk_bytes
    if free is not None and free < _LITTLE_DISK_BYTES:
        more.append(f"Only {bytes_text(free)} of disk are free.")
    tone = "slow" if more and first.tone in ("calm", "unsure") else first.tone
    return IngestVerdict(tone, " ".join((first.text, *more)))


def _first(report: SelfReport) -> IngestVerdict:
    stats, series = report.ingest, report.ingest.recent
    if report.store.error:
        return IngestVerdict("broken", f"The store does not answer: {report.store.error}")
    if stats.last_error:
        when = _ago(report, stats.last_error_ns)
        return IngestVerdict(
            "broken", f"The last spans that came, {when}, were not stored: {_stopped(stats.last_error)}"
        )
    if report.queue_full:
        held = f"{bytes_text(stats.queued_bytes)} in {count_text(stats.queued_requests)} requests"
        return IngestVerdict("slow", f"The queue is full ({held}): senders are asked to retry until there is room.")
    window = f"in the last {_minutes(series.window_s)}"
    lost = [
        f"{_counted(series.total('refused'), 'request')} asked to retry",
        f"{_counted(series.total('failed'), 'request')} refused or failed for good",
        f"{count_text(series.total('rejected'))} of {_counted(series.total('received'), 'span')} rejected",
    ]
    named = [
        text for text, count in zip(lost, map(series.total, ("refused", "failed", "rejected")), strict=True) if count
    ]
    if named:
        return IngestVerdict("slow", f"Not everything that came {window} was stored: {', '.join(named)}.")
    if not series.total("stored"):
        return IngestVerdict("unsure", f"Nothing came {window}{_before(report)}.")
    received = _counted(series.total("received"), "span")
    known = series.total("duplicates")
    repeated = f"; {count_text(known)} of them were known already" if known else ""
    requests = _counted(series.total("stored"), "request")
    return IngestVerdict("calm", f"Everything that came {window} was stored: {received} in {requests}{repeated}.")


def _before(report: SelfReport) -> str:
    latest = next(iter(report.ingest.services), None)
    if latest is None:
        return f", and no span since the start {_ago(report, report.ingest.started_ns)}"
    return f"; the last spans came {_ago(report, latest.last_ns)}, from {latest.service}"


def _minutes(seconds: int) -> str:
    return f"{seconds // 60} min"


def _counted(count: int, noun: str) -> str:
    return f"{count_text(count)} {noun}{'' if count == 1 else 's'}"


def _stopped(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?", "…")) else f"{sentence}."


def _ago(report: SelfReport, instant_ns: int) -> str:
    return f"{duration_text(max(report.now_ns - instant_ns, 0))} ago"


def _seconds_seen(report: SelfReport) -> float:
    """The length of the window, shorter where the server started within it."""
    return min(report.ingest.recent.window_s, (report.now_ns - report.ingest.started_ns) / 1e9)


def _times(name: str, meaning: str, summary: DurationSummary) -> TimesRow:
    return TimesRow(name, meaning, summary, summary.count < ENOUGH)


def _steps(series: CountSeries) -> list[tuple[int, dict[str, int]]]:
    """The steps in which something came, the latest first."""
    rows = [
        (start, {name: counts[place] for name, counts in series.counts.items()})
        for place, start in enumerate(series.start_ns)
    ]
    return [row for row in reversed(rows) if any(row[1].values())]
