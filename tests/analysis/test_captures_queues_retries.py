"""Waits and retries of real recordings: every statement of their README that this part of the analysis covers."""

from __future__ import annotations

import pytest

from analysis.overview import overview
from analysis.queueing import queue_waits
from analysis.reports import QueueRow, QueuesReport, RetriesReport, RetryEdge
from analysis.retries import retry_costs
from tests.captures import capture, needs_captures
from tests.stored import MS

pytestmark = needs_captures


def queues(scenario: str, mode: str = "new") -> QueuesReport:
    with capture(scenario, mode) as spans:
        return queue_waits(spans)


def retries(scenario: str, mode: str = "new") -> RetriesReport:
    with capture(scenario, mode) as spans:
        return retry_costs(spans)


def only_edge(scenario: str, mode: str = "new") -> RetryEdge:
    (edge,) = retries(scenario, mode).edges
    return edge


def row(report: QueuesReport, name: str) -> QueueRow:
    (found,) = [row for row in report.rows if row.name == name]
    return found


SILENT = [
    ("01_http_basic", "new"),
    ("01_http_basic", "old"),
    ("03_retry_httpx_transport", "new"),
    ("07c_poolwait_http", "new"),
    ("08_nplus1_db", "new"),
    ("08b_nplus1_http", "new"),
    ("09_seq_vs_gather", "new"),
    ("10_redis", "new"),
    ("16_semaphore", "new"),
    ("17_loop_block", "new"),
    ("17_loop_block", "old"),
    ("17c_sync_def_threadpool", "new"),
    ("17d_loop_block_asynciodebug", "new"),
    ("17d_loop_block_asynciodebug", "old"),
    ("17e_loop_block_asynciodebug_uvloop", "new"),
    ("17e_loop_block_asynciodebug_uvloop", "old"),
    ("18_client_disconnect", "new"),
    ("19_zombie", "new"),
    ("20_timeouts", "new"),
    ("21_exceptions", "new"),
    ("21b_unhandled", "new"),
    ("32_sigterm", "old"),
    ("32b_sigint", "old"),
    ("34_websocket", "new"),
]
"""Nothing here is a broker's, a SQLAlchemy pool's or a load balancer's queue, and no call is tried again in spans."""


@pytest.mark.parametrize(("scenario", "mode"), SILENT)
def test_silence(scenario: str, mode: str) -> None:
    with capture(scenario, mode) as spans:
        waits, costs = queue_waits(spans), retry_costs(spans)
    assert waits.rows == ()
    assert waits.never_run == ()
    assert waits.notes == ()
    assert costs.edges == ()
    assert costs.notes == ()


RETRY_ONLY = ["02_retry_httpx_tenacity", "04_retry_aiohttp", "05_retry_requests_urllib3", "06_retry_stamina"]


@pytest.mark.parametrize("scenario", [*RETRY_ONLY, "99_samples_jsonhttp"])
def test_retries_are_no_queues(scenario: str) -> None:
    report = queues(scenario)
    assert report.rows == ()
    assert report.notes == ()


@pytest.mark.parametrize("mode", ["new", "old"])
def test_tenacity(mode: str) -> None:
    edge = only_edge("02_retry_httpx_tenacity", mode)
    assert (edge.kind, edge.caller, edge.callee, edge.operation) == (
        "visible",
        "gateway",
        "upstream",
        "GET /flaky/{key}",
    )
    assert (edge.calls, edge.attempts, edge.retried_calls) == (3, 10, 3)
    assert edge.amplification == pytest.approx(10 / 3)
    assert (edge.recovered, edge.exhausted) == (2, 1)
    assert edge.errors == (("503", 6), ("429", 2))
    assert [(a.attempts, a.succeeded, a.failed) for a in edge.by_attempt] == [
        (3, 0, 3),
        (3, 0, 3),
        (3, 2, 1),
        (1, 0, 1),
    ]
    gaps = [gap for part in edge.backoff_gaps_ns for gap in part]
    assert len(gaps) == 7
    assert all(50 * MS <= gap <= 62 * MS for gap in gaps)
    assert edge.backoff_ns == sum(gaps)
    assert edge.backoff_shape == "constant"
    assert edge.endpoints == (("gateway", "GET /retry/httpx_tenacity/{k}", 3),)
    assert len(edge.trace_ids) == 3


@pytest.mark.parametrize("mode", ["new", "old"])
def test_tenacity_is_most_of_each_request(mode: str) -> None:
    with capture("02_retry_httpx_tenacity", mode) as spans:
        edge = retry_costs(spans).edges[0]
        (endpoint,) = [row for row in overview(spans).endpoints if row.service == "gateway"]
    # 82 to 89 % from the first attempt's start to the last one's; the last attempt of the exhausted call failed too.
    assert 0.80 <= (edge.wasted_ns + edge.backoff_ns) / endpoint.total_ns <= 0.93


def test_aiohttp_status_in_the_exception_and_redirect() -> None:
    report = retries("04_retry_aiohttp")
    (edge,) = report.edges
    assert (edge.kind, edge.calls, edge.attempts, edge.recovered) == ("visible", 1, 3, 1)
    assert edge.errors == (("503", 2),)
    (note,) = report.notes
    assert "redirect" in note
    assert "302, 200" in note


def test_hidden_retry_of_urllib3() -> None:
    edge = only_edge("05_retry_requests_urllib3")
    assert (edge.kind, edge.caller, edge.callee) == ("hidden", "gateway", "upstream")
    assert (edge.calls, edge.attempts, edge.recovered, edge.exhausted) == (1, 3, 1, 0)
    assert edge.errors == (("503", 2),)
    assert [round(part[0] / MS) for part in edge.backoff_gaps_ns] == [11, 107]
    assert edge.wasted_ns / MS == pytest.approx(20 + 19, abs=1)
    assert edge.backoff_shape == "unknown"
    assert edge.endpoints == (("gateway", "GET /retry/requests_urllib3/{k}", 1),)


def test_stamina_backoff_is_the_cost() -> None:
    with capture("06_retry_stamina") as spans:
        (edge,) = retry_costs(spans).edges
        (endpoint,) = [row for row in overview(spans).endpoints if row.service == "gateway"]
    assert edge.attempts == 3
    assert [round(part[0] / MS) for part in edge.backoff_gaps_ns] == [582, 960]
    assert edge.backoff_ns / endpoint.total_ns == pytest.approx(0.84, abs=0.01)


def test_mixed_encodings_say_the_same() -> None:
    edge = only_edge("99_samples_jsonhttp")
    # The second call is the one that /swallow makes once, and lets fail.
    assert (edge.calls, edge.retried_calls, edge.attempts, edge.recovered) == (2, 1, 4, 1)
    assert edge.errors == (("503", 2),)
    assert edge.endpoints == (("gateway", "GET /retry/httpx_tenacity/{k}", 1),)


@pytest.mark.parametrize("mode", ["new", "old"])
def test_database_pool(mode: str) -> None:
    report = queues("07_db_pool", mode)
    (pool,) = report.rows
    assert (pool.kind, pool.service, pool.name, pool.confidence) == ("pool", "dbapp", "postgresql shop", "derived")
    # 8 of /sa_slow and 2 of /tx_idle; the two of /sa_one opened the connections, and /lite has no such pool.
    assert (pool.count, pool.waited) == (10, 10)
    paid = {endpoint: (requests, waited_ns / MS) for _, endpoint, requests, waited_ns in pool.payers}
    assert set(paid) == {"GET /sa_slow", "GET /tx_idle"}
    assert paid["GET /sa_slow"][0] == 8
    assert paid["GET /tx_idle"][0] == 2
    assert any("2 connections" in note for note in pool.notes)
    assert any(note.startswith("2 checkouts took up to") and "opening a connection" in note for note in pool.notes)
    assert retries("07_db_pool", mode).edges == ()
    if mode == "new":
        assert pool.timeouts == 0
        assert 0.9 * 1e9 < pool.max_ns < 0.95 * 1e9
        assert paid["GET /tx_idle"][1] / 2 == pytest.approx(450, abs=15)
    else:
        assert pool.timeouts == 2
        assert any("size 2, overflow 0, time-out 1 s" in note and "not of the database" in note for note in pool.notes)


@pytest.mark.parametrize(("mode", "low_ms", "high_ms"), [("new", 5_000, 6_300), ("old", 10_500, 11_800)])
def test_celery_waits(mode: str, low_ms: int, high_ms: int) -> None:
    with capture("11_celery", mode) as spans:
        report = queue_waits(spans)
        enqueue = next(row for row in overview(spans).endpoints if row.endpoint == "GET /enqueue")
    slow = row(report, "cel.slow")
    assert (slow.kind, slow.service, slow.confidence) == ("queue", "celery-worker", "measured")
    assert slow.count == 9
    assert high_ms - 100 <= slow.max_ns / MS <= high_ms
    assert slow.p50.value_ns is not None
    assert low_ms <= slow.p50.value_ns / MS <= high_ms
    assert slow.service_p50_ns / MS == pytest.approx(305, abs=5)
    assert any("one message at a time" in note for note in slow.notes)
    assert any("celapi GET /enqueue (5)" in note for note in slow.notes)
    assert slow.payers[0][:2] == ("celery-worker", "run/cel.slow")
    assert slow.p99.low_ns is None
    assert enqueue.p50.value_ns is not None
    assert enqueue.p50.value_ns < 400 * MS
    assert set(report.never_run) == {("celapi", "cel.slow", 1), ("celapi", "cel.unknown_in_registry", 1)}
    assert not any("PING" in found.name or "LLEN" in found.name for found in report.rows)
    assert row(report, "cel.flaky").count == 3
    assert any("still open" in note for note in row(report, "cel.flaky").notes)


def test_celery_countdown_is_no_wait() -> None:
    report = queues("11_celery", "new")
    with capture("11_celery", "new") as spans:
        due = spans.rows(
            "select start_ns - ready_ns as wait_ns from spans "
            "where name = 'run/cel.slow' and ready_ns > 0 order by start_ns"
        )
    assert [round(wait / MS, -1) for (wait,) in due] == [530]
    # Nine waits: five of /enqueue, the counted-down one from its ETA, and three of 1.2 to 1.9 s behind others.
    assert row(report, "cel.slow").total_ns / MS == pytest.approx(33_880, abs=5)


@pytest.mark.parametrize("mode", ["new", "old"])
def test_celery_retries(mode: str) -> None:
    edges = {edge.operation: edge for edge in retries("11_celery", mode).edges}
    assert set(edges) == {"cel.flaky", "cel.exhausts"}
    flaky, exhausts = edges["cel.flaky"], edges["cel.exhausts"]
    assert {edge.kind for edge in edges.values()} == {"job"}
    assert (flaky.caller, flaky.callee) == ("celapi", "celery-worker")
    assert (flaky.calls, flaky.attempts, flaky.recovered, flaky.exhausted) == (1, 3, 1, 0)
    assert (exhausts.calls, exhausts.attempts, exhausts.recovered, exhausts.exhausted) == (1, 2, 0, 1)
    assert dict(exhausts.errors) == {"ValueError": 1, "retry": 1}
    assert flaky.endpoints == (("celery-worker", "run/cel.flaky", 1),)


def test_celery_solo() -> None:
    report = queues("11c_celery_solo")
    flaky, slow = row(report, "cel.flaky"), row(report, "cel.slow")
    assert flaky.max_ns / MS == pytest.approx(318, abs=2)
    assert (slow.count, slow.waited, slow.max_ns) == (1, 0, 0)
    edge = only_edge("11c_celery_solo")
    assert (edge.operation, edge.attempts, edge.recovered, edge.exhausted) == ("cel.flaky", 3, 1, 0)


def test_taskiq() -> None:
    report = queues("12_taskiq")
    slow = row(report, "tq:slow")
    assert (slow.count, slow.waited) == (5, 5)
    assert slow.p50.value_ns is not None
    assert slow.p50.value_ns / MS == pytest.approx(4270, abs=10)
    assert slow.max_ns / MS == pytest.approx(4880, abs=10)
    # The library's own metric task_wait_time says 21.3 s for these five.
    assert slow.total_ns / MS == pytest.approx(21_300, abs=50)
    for name in ("tq:flaky", "tq:bad", "tq:tmo"):
        assert row(report, name).max_ns / MS == pytest.approx(1_100, abs=50)
    assert not any("BRPOP" in found.name for found in report.rows)
    edge = only_edge("12_taskiq")
    assert (edge.kind, edge.operation, edge.attempts, edge.recovered) == ("job", "tq:flaky", 3, 1)


def test_arq() -> None:
    report = queues("13_arq")
    slow = row(report, "slow")
    assert slow.count == 5
    # 4.9, 5.3, 5.7 and 6.1 s, and 0.12 s after its due time for the deferred one.
    assert slow.total_ns / MS == pytest.approx(4905 + 5315 + 5737 + 6147 + 118, abs=10)
    assert slow.max_ns / MS == pytest.approx(6_147, abs=5)
    for name in ("flaky", "bad", "tmo"):
        assert 100 <= row(report, name).max_ns / MS <= 450
    assert report.never_run == ()
    edge = only_edge("13_arq")
    assert (edge.kind, edge.operation, edge.attempts, edge.recovered, edge.exhausted) == ("job", "flaky", 3, 1, 0)


def test_rabbitmq() -> None:
    report = queues("14b_aio_pika")
    jobs = row(report, "jobs")
    assert (jobs.service, jobs.count) == ("consumer", 5)
    assert jobs.total_ns / MS == pytest.approx(6055 + 6209 + 6361 + 6513 + 6668, abs=10)
    assert any("one message at a time" in note for note in jobs.notes)
    assert any(note.startswith("1 delivery beyond the first") for note in jobs.notes)
    assert any("producer place_order (4)" in note for note in jobs.notes)
    edge = only_edge("14b_aio_pika")
    assert (edge.kind, edge.operation, edge.calls, edge.attempts, edge.retried_calls) == ("job", "jobs", 4, 5, 1)
    assert edge.errors == (("delivered again, no error recorded", 1),)
    assert (edge.recovered, edge.exhausted) == (1, 0)


def test_in_front_of_the_application() -> None:
    with capture("29_x_request_start") as spans:
        report = queue_waits(spans)
        (endpoint,) = overview(spans).endpoints
    (front,) = report.rows
    assert (front.kind, front.service, front.confidence, front.count) == ("front", "gateway", "measured", 3)
    assert front.total_ns / MS == pytest.approx(122 + 123 + 127, abs=2)
    assert front.payers == (("gateway", "GET /fast", 3, front.total_ns),)
    assert front.notes == ()
    assert report.notes == ()
    assert endpoint.p50.value_ns is not None
    assert 2 * MS <= endpoint.p50.value_ns <= 12 * MS


def test_asyncio_queue_cannot_be_measured() -> None:
    report = queues("14_asyncio_queue")
    assert report.rows == ()
    (note,) = report.notes
    assert note.startswith("aioq: 5 runs of handle_job")
    assert "cannot be told" in note
    assert "coro-worker" not in note
    assert retries("14_asyncio_queue").edges == ()


def test_lost_process() -> None:
    with capture("32_sigterm", "old") as spans:
        report = overview(spans)
    (note,) = report.notes
    assert note.startswith("Spans of a process between client and upstream are missing: 3 requests of upstream")
    assert "crash" not in note
    assert [(edge.caller, edge.callee) for edge in report.edges] == [("client", "127.0.0.1:8101")]


@pytest.mark.parametrize(("scenario", "mode"), [("32b_sigint", "old"), ("01_http_basic", "new"), ("07_db_pool", "new")])
def test_nothing_is_missing(scenario: str, mode: str) -> None:
    with capture(scenario, mode) as spans:
        assert overview(spans).notes == ()


def test_drivers_and_polling_are_not_ranked() -> None:
    with capture("13_arq") as spans:
        report = overview(spans)
    assert not any(row.service.startswith("client") for row in report.endpoints)
    assert not any("ZRANGEBYSCORE" in row.endpoint for row in report.endpoints)
    assert dict(report.left_out)["calls by drivers outside the system"] == 2
    assert dict(report.left_out)["worker polling and task lifetimes"] == 199
    with capture("34_websocket") as spans:
        report = overview(spans)
    assert report.endpoints == ()
    assert report.left_out == (("websocket connections", 1),)


def test_a_statement_is_counted_once() -> None:
    with capture("08_nplus1_db") as spans:
        edges = {edge.callee: edge.calls for edge in overview(spans).edges if edge.caller == "dbapp"}
    # 11 ORM + 2 eager + 11 raw + 5 repeated + 5 literal; BEGIN, ROLLBACK and the like are no calls.
    assert edges == {"postgresql shop": 34}
