"""A report of the server about itself with hostile names in every field, for the page and the metrics."""

from __future__ import annotations

from dataclasses import replace

from app.ingest.errors import Reason
from app.ingest.stats import Counters
from app.measuring.durations import Durations
from app.measuring.query_times import QueryTimes
from app.otlp.columns import Rejection, Tally
from app.self_report import OtherSignal, SelfReport, StoreState
from tests.app.measuring.test_durations import Clock
from tests.app.reports_made import HOSTILE

LIMIT_BYTES = 256 * 2**20


def self_report_made(**replaced: object) -> SelfReport:
    """Twenty stored requests, five spans rejected, one request for every reason, a slow loop, one slow query."""
    clock = Clock()
    counters = Counters(clock)
    now_ns = counters.started_ns + 60 * 10**9
    for number in range(20):
        number_of_request = counters.arrived()
        clock.now_s += 0.5
        rejected = (Rejection(HOSTILE, 5, HOSTILE),) if number == 7 else ()
        tally = Tally(105 if rejected else 100, 90, 0, 10, rejected, senders=(HOSTILE,))
        counters.stored(tally, now_ns - 10**9, {HOSTILE: 100})
        counters.commit.add(5_000_000 + number)
        counters.wait.add(7_000_000 + number)
        counters.left(number_of_request, stored=True)
    counters.commits = 18
    for reason in Reason:
        counters.not_stored(reason, (HOSTILE,), HOSTILE, now_ns - 2 * 10**9)
    counters.arrived()
    clock.now_s += 2
    lag = Durations(300, clock)
    for _ in range(200):
        lag.add(400_000)
    lag.add(700_000_000)
    queries = QueryTimes()
    with queries.asked("overview"):
        pass
    report = SelfReport(
        now_ns,
        LIMIT_BYTES,
        2_000,
        counters.snapshot(3 * 2**20, 1),
        lag.summary(),
        queries.stats(),
        StoreState(1_800, 5 * 2**20, 40 * 2**30, ""),
        (OtherSignal("logs", 3, 40, "OTEL_LOGS_EXPORTER=none"),),
    )
    return replace(report, **replaced)  # type: ignore[arg-type]


def nothing_came() -> SelfReport:
    """A server that has just started."""
    counters = Counters(Clock())
    empty = Durations(300, Clock()).summary()
    return self_report_made(
        now_ns=counters.started_ns + 10**9,
        ingest=counters.snapshot(0, 0),
        loop_lag=empty,
        queries=QueryTimes().stats(),
        other_signals=(),
    )
