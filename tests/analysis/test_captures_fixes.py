"""Findings on recordings of real services: the known faults are named, everything else stays silent."""

from __future__ import annotations

import pytest

from analysis.fixes import fixes
from analysis.reports import FixesReport
from tests.captures import capture, needs_captures

pytestmark = needs_captures

# (recording, mode) -> (detector, endpoint) that must be found; nothing else may be.
EXPECTED: dict[tuple[str, str], set[tuple[str, str]]] = {
    ("01_http_basic", "new"): set(),
    ("01_http_basic", "old"): set(),
    ("02_retry_httpx_tenacity", "new"): set(),
    ("03_retry_httpx_transport", "new"): set(),
    ("04_retry_aiohttp", "new"): set(),
    ("05_retry_requests_urllib3", "new"): set(),
    ("06_retry_stamina", "new"): set(),
    ("07_db_pool", "new"): {("pool-wait", "GET /sa_slow")},
    ("07_db_pool", "old"): {("pool-wait", "GET /sa_slow")},
    ("07c_poolwait_http", "new"): set(),
    ("08_nplus1_db", "new"): {
        ("n-plus-one-queries", "GET /nplus1_sa"),
        ("n-plus-one-queries", "GET /nplus1_raw"),
        ("n-plus-one-queries", "GET /literal_sql"),
        ("n-plus-one-queries", "GET /repeat_same"),
    },
    ("08b_nplus1_http", "new"): set(),
    ("09_seq_vs_gather", "new"): {("serial-calls", "GET /seq")},
    ("10_redis", "new"): {("n-plus-one-queries", "GET /n1"), ("n-plus-one-queries", "GET /repeat")},
    ("11_celery", "new"): set(),
    ("11_celery", "old"): set(),
    ("11c_celery_solo", "new"): set(),
    ("12_taskiq", "new"): set(),
    ("13_arq", "new"): set(),
    ("14_asyncio_queue", "new"): set(),
    ("14b_aio_pika", "new"): set(),
    ("16_semaphore", "new"): set(),
    ("17_loop_block", "new"): set(),
    ("17_loop_block", "old"): set(),
    ("17c_sync_def_threadpool", "new"): set(),
    ("17d_loop_block_asynciodebug", "new"): set(),
    ("17d_loop_block_asynciodebug", "old"): set(),
    ("17e_loop_block_asynciodebug_uvloop", "new"): set(),
    ("17e_loop_block_asynciodebug_uvloop", "old"): set(),
    ("18_client_disconnect", "new"): set(),
    ("19_zombie", "new"): set(),
    ("20_timeouts", "new"): set(),
    ("21_exceptions", "new"): set(),
    ("21b_unhandled", "new"): set(),
    ("29_x_request_start", "new"): set(),
    ("32_sigterm", "old"): set(),
    ("32b_sigint", "old"): set(),
    ("34_websocket", "new"): set(),
    ("99_samples_jsonhttp", "new"): set(),
}


def report(scenario: str, mode: str) -> FixesReport:
    with capture(scenario, mode) as spans:
        return fixes(spans)


@pytest.mark.parametrize(("scenario", "mode"), EXPECTED, ids="/".join)
def test_known_faults_are_named_and_nothing_else(scenario: str, mode: str) -> None:
    found = report(scenario, mode)
    assert found.failed_detectors == ()
    assert {(finding.detector, finding.endpoint) for finding in found.findings} == EXPECTED[scenario, mode]


def test_n_plus_one_counts_each_query_once_and_promises_no_more_than_it_costs() -> None:
    by_endpoint = {finding.endpoint: finding for finding in report("08_nplus1_db", "new").findings}
    assert "10 times in a row" in by_endpoint["GET /nplus1_sa"].message
    assert "10 times in a row" in by_endpoint["GET /nplus1_raw"].message
    assert by_endpoint["GET /literal_sql"].confidence == "high"
    assert by_endpoint["GET /repeat_same"].confidence == "medium"
    assert "may also be the same row" in by_endpoint["GET /repeat_same"].confidence_reason
    for finding in by_endpoint.values():
        assert finding.gain.p50_before_ns - finding.gain.p50_after_ns < 12_000_000


def test_serial_calls_are_possible_and_save_the_sum_minus_the_longest() -> None:
    finding = report("09_seq_vs_gather", "new").findings[0]
    assert finding.confidence == "low"
    assert "Possible, not certain" in finding.message
    assert finding.gain.p50_before_ns - finding.gain.p50_after_ns == pytest.approx(108e6, rel=0.1)


def test_the_waits_of_the_recorded_pool_are_those_of_its_ten_checkouts() -> None:
    """8 of /sa_slow and 2 of /tx_idle: 138 to 940 ms, the middle two 446 and 456 ms."""
    [finding] = report("07_db_pool", "new").findings
    assert "451 ms in the median of those and 940 ms at most" in finding.message
    assert finding.confidence_reason.startswith("100 % of the waits end just as another request gives")


def test_pool_timeouts_are_of_the_pool() -> None:
    finding = report("07_db_pool", "old").findings[0]
    assert finding.confidence == "high"
    assert "2 gave up waiting (a timeout of the pool, not of the database)" in finding.message


def test_masked_redis_keys_are_no_certainty() -> None:
    for finding in report("10_redis", "new").findings:
        assert finding.confidence == "medium"
        assert finding.gain.p50_before_ns - finding.gain.p50_after_ns < 10_000_000
