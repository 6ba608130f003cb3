"""`GET /metrics`: the numbers of the ingest page for a Prometheus server.

The text is written by prometheus-client, which knows both formats, their escaping and their naming rules, and checks
names; the numbers are our own snapshot, because one lock and one clock make page, API and metrics agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.exposition import generate_latest as plain_text
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.measuring.durations import BUCKETS_S, DurationSummary
from app.self_report import SelfReport, self_report
from app.version import version

_VERSION = version()
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
_SERVICES = 64
"""Series are what a Prometheus server pays for: the latest 64 senders have one each, the page shows 256."""


async def metrics(request: Request) -> Response:
    """OpenMetrics 1.0, or the older text format for who accepts text/plain and not OpenMetrics."""
    families = _Families(tuple(metric_families(await self_report(request.app.state))))
    accepted = request.headers.get("accept", "")
    if re.search(r"\btext/plain\b", accepted) and "application/openmetrics-text" not in accepted:
        return Response(plain_text(families), headers={"Content-Type": PLAIN})
    text: bytes = openmetrics_text(families)  # type: ignore[no-untyped-call]
    return Response(text, headers={"Content-Type": OPENMETRICS})


routes = [Route("/metrics", metrics, name="metrics")]


@dataclass(frozen=True)
class _Families:
    """What prometheus-client calls a collector."""

    families: tuple[Metric, ...]

    def collect(self) -> Iterable[Metric]:
        return self.families


def metric_families(report: SelfReport) -> Iterator[Metric]:
    """Every metric with its samples, in the order of the page."""
    yield InfoMetricFamily("spanwise_build", "This server.", {"version": _VERSION})
    started_s = report.ingest.started_ns / 1e9
    yield GaugeMetricFamily(
        "spanwise_start_timestamp_seconds", "When counting began, since 1970.", started_s, unit="seconds"
    )
    yield from _ingest_families(report)
    yield from _other_signal_families(report)
    yield from _service_families(report)
    yield from _query_families(report)
    yield from _store_families(report)


def _ingest_families(report: SelfReport) -> Iterator[Metric]:
    stats = report.ingest
    spans = CounterMetricFamily("spanwise_ingest_spans", "Spans received, by what became of them.", labels=["outcome"])
    for outcome, count in (
        ("stored", stats.accepted_spans),
        ("duplicate", stats.duplicate_spans),
        ("rejected", stats.rejected_spans),
    ):
        spans.add_metric([outcome], count)
    yield spans
    requests = CounterMetricFamily(
        "spanwise_ingest_requests",
        "Requests with spans: stored (with partial), told to retry, failed or unreadable.",
        labels=["outcome"],
    )
    for outcome, count in (
        ("stored", stats.batches),
        ("refused", stats.refused_requests),
        ("failed", stats.failed_requests),
    ):
        requests.add_metric([outcome], count)
    yield requests
    yield CounterMetricFamily(
        "spanwise_ingest_partial_batches", "Stored requests of which some spans were rejected.", stats.partial_batches
    )
    refusals = CounterMetricFamily(
        "spanwise_ingest_refusals", "Requests of which nothing was stored, by reason.", labels=["reason"]
    )
    for refusal in stats.refusals:
        refusals.add_metric([refusal.reason], refusal.count)
    yield refusals
    yield CounterMetricFamily("spanwise_ingest_commits", "Transactions committed for received spans.", stats.commits)
    yield _gauge("spanwise_ingest_queue_bytes", "Bytes held for requests without an answer.", stats.queued_bytes)
    yield _gauge("spanwise_ingest_queue_limit_bytes", "Bytes above which senders retry.", report.queue_limit_bytes)
    yield _gauge("spanwise_ingest_queue_requests", "Requests held without an answer.", stats.queued_requests)
    yield _gauge(
        "spanwise_ingest_queue_limit_requests", "Requests above which senders retry.", report.queue_limit_requests
    )
    oldest_s = stats.oldest_wait_ns / 1e9
    yield _gauge("spanwise_ingest_oldest_wait_seconds", "Age of the oldest request without an answer.", oldest_s)
    yield _histogram("spanwise_ingest_answer_seconds", "From a complete body to its stored spans.", stats.answer)
    yield _histogram("spanwise_ingest_wait_seconds", "From a decoded batch to the end of its commit.", stats.wait)
    yield _histogram("spanwise_ingest_commit_seconds", "One transaction of the writer.", stats.commit)
    yield _histogram("spanwise_loop_lag_seconds", "How late the event loop wakes up.", report.loop_lag)


def _other_signal_families(report: SelfReport) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "spanwise_other_signal_requests", "Requests with metrics or logs, which are not kept.", labels=["signal"]
    )
    items = CounterMetricFamily(
        "spanwise_other_signal_items", "Data points and log records, which are not kept.", labels=["signal"]
    )
    for each in report.other_signals:
        requests.add_metric([each.signal], each.requests)
        items.add_metric([each.signal], each.items)
    yield requests
    yield items


def _service_families(report: SelfReport) -> Iterator[Metric]:
    seen = CounterMetricFamily("spanwise_service_spans", "Spans by the service that sent them.", labels=["service"])
    last = GaugeMetricFamily(
        "spanwise_service_last_received_timestamp_seconds",
        "When spans of the service last came, since 1970.",
        labels=["service"],
        unit="seconds",
    )
    for each in report.ingest.services[:_SERVICES]:
        seen.add_metric([each.service], each.spans)
        last.add_metric([each.service], each.last_ns / 1e9)
    yield seen
    yield last


def _query_families(report: SelfReport) -> Iterator[Metric]:
    queries = report.queries
    yield _gauge("spanwise_queries_running", "Analyses that run.", queries.running)
    yield _gauge("spanwise_queries_waiting", "Analyses that wait for a thread.", queries.waiting)
    took = HistogramMetricFamily(
        "spanwise_query_seconds", "From question to report.", labels=["analysis"], unit="seconds"
    )
    ended = CounterMetricFamily("spanwise_query_failures", "Analyses without a report.", labels=["analysis", "outcome"])
    for each in sorted(queries.analyses, key=lambda each: each.name):
        took.add_metric([each.name], _buckets(each.durations), each.durations.total_ns / 1e9)
        ended.add_metric([each.name, "interrupted"], each.interrupted)
        ended.add_metric([each.name, "failed"], each.failed)
    yield took
    yield ended


def _store_families(report: SelfReport) -> Iterator[Metric]:
    store = report.store
    yield _gauge("spanwise_store_up", "1 where the store answers.", int(not store.error))
    for name, text, value in (
        ("spanwise_store_live_spans", "Spans in the live dataset.", store.live_spans),
        ("spanwise_store_size_bytes", "Database file and its log.", store.size_bytes),
        ("spanwise_store_free_disk_bytes", "Free on the disk of the database.", store.free_disk_bytes),
    ):
        if value is not None:
            yield _gauge(name, text, value)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    unit = next((unit for unit in ("bytes", "seconds") if name.endswith(f"_{unit}")), "")
    return GaugeMetricFamily(name, text, value, unit=unit)


def _histogram(name: str, text: str, summary: DurationSummary) -> HistogramMetricFamily:
    return HistogramMetricFamily(
        name, text, buckets=_buckets(summary), sum_value=summary.total_ns / 1e9, unit="seconds"
    )


def _buckets(summary: DurationSummary) -> list[tuple[str, float]]:
    bounds = [*map(str, BUCKETS_S), "+Inf"]
    return list(zip(bounds, map(float, summary.buckets), strict=True))
