"""What the recordings' README says of requests and their time: endpoints, ledgers, and what is no request at all."""

from __future__ import annotations

import re

import pytest

from analysis.accounting import request_ledger
from analysis.ledger import Category, Ledger
from analysis.node import Node
from analysis.overview import overview
from analysis.sample import SampledRequest, sample_endpoint
from analysis.span import Spans
from analysis.tail import endpoint_report
from analysis.trace_view import trace_report
from tests.captures import DATA, capture, needs_captures

pytestmark = needs_captures

EVERY = sorted(
    (folder.parent.name, folder.name) for folder in (DATA / "captures").glob("*/*") if any(folder.glob("*.traces.*"))
)
MIN_FOR_P99 = 368
_NO_REQUEST = re.compile(r"http (send|receive)|coro-|websocket|^(BRPOP|ZRANGEBYSCORE|EVALSHA|PING|SET|PUBLISH)\b")


def requests(spans: Spans, service: str, endpoint: str) -> list[tuple[SampledRequest, Ledger]]:
    """All of them, shortest first."""
    sample = sample_endpoint(spans, service, endpoint)
    assert sample is not None
    found = [(request, request_ledger(request.trace, request.root)) for request in sample.requests]
    return sorted(found, key=lambda pair: pair[0].duration_ns)


def spent_ms(ledger: Ledger, category: Category) -> float:
    return sum(part.duration_ns for part in ledger.slices if part.category == category) / 1e6


@pytest.mark.parametrize(("scenario", "mode"), EVERY, ids="/".join)
def test_few_requests_are_said_to_be_few_and_no_clock_is_blamed(scenario: str, mode: str) -> None:
    with capture(scenario, mode) as spans:
        report = overview(spans)
        assert (report.notes == ()) == (scenario != "32_sigterm")
        for row in report.endpoints:
            assert not _NO_REQUEST.search(row.endpoint)
            told = endpoint_report(spans, row.service, row.endpoint)
            assert row.count < MIN_FOR_P99
            assert not told.row.p99.trusted
            assert any("too few for a p99" in note for note in told.trust)
            assert not any("Clocks" in note for note in told.trust)
            assert told.withheld == ""
            assert told.changes == ()
            assert told.contrasts.values == ()


def late(request: Node) -> set[str]:
    return {node.span.name for node in request.walk() if any("continues after the response" in n for n in node.notes)}


def test_work_after_the_response_is_not_part_of_the_request() -> None:
    with capture("19_zombie") as spans:
        [(zombie, ledger)] = requests(spans, "gateway", "GET /zombie")
        [(background, _)] = requests(spans, "gateway", "GET /background")
    assert zombie.duration_ns < 50_000_000
    assert [part.category for part in ledger.slices] == [Category.OWN_CODE]
    assert "GET" in late(zombie.root)
    assert background.duration_ns < 50_000_000
    assert late(background.root) >= {"BackgroundTask zombie_work"}


@pytest.mark.parametrize("mode", ["new", "old"])
def test_a_query_is_counted_once_and_its_wait_apart(mode: str) -> None:
    """0.25 s of query, 0.14 to 0.94 s of waiting for a connection."""
    with capture("07_db_pool", mode) as spans:
        found = requests(spans, "dbapp", "GET /sa_slow")
    waits = [spent_ms(ledger, Category.POOL) for _, ledger in found]
    assert max(waits) > 400
    if mode == "new":
        assert 130 < min(waits) <= max(waits) < 950
    for _, ledger in found:
        assert spent_ms(ledger, Category.DATABASE) < 450
        assert sum(part.duration_ns for part in ledger.slices) == ledger.duration_ns


def test_a_failed_answer_is_counted_with_its_server_alone() -> None:
    """One request fails in its driver, its server and in the ASGI span that sends the answer, which repeats it."""
    with capture("21b_unhandled") as spans:
        ids = spans.rows("select distinct replace(trace_id::varchar, '-', '') as id from spans order by id")
        reports = [trace_report(spans, trace_id) for (trace_id,) in ids]
    [failing] = [report for report in reports if report.error_count]
    assert failing.error_count == 2


def test_a_hidden_retry_costs_backoff_and_failed_attempts_and_no_slow_callee() -> None:
    with capture("05_retry_requests_urllib3") as spans:
        [(_, ledger)] = requests(spans, "gateway", "GET /retry/requests_urllib3/{k}")
    assert spent_ms(ledger, Category.BACKOFF) == pytest.approx(118, abs=2)
    assert spent_ms(ledger, Category.FAILED_ATTEMPTS) == pytest.approx(39, abs=2)


def test_many_calls_of_one_route_are_one_endpoint() -> None:
    with capture("08b_nplus1_http") as spans:
        rows = {(row.service, row.endpoint): row.count for row in overview(spans).endpoints}
    assert rows["upstream", "GET /item/{i}"] == 17


def test_opening_a_connection_is_no_wait_for_one() -> None:
    with capture("08_nplus1_db") as spans:
        [(_, ledger)] = requests(spans, "dbapp", "GET /nplus1_sa")
    assert spent_ms(ledger, Category.POOL) < 1
    assert any(part.label.endswith("opening a connection") for part in ledger.slices)


def test_backoff_is_what_a_retried_call_costs() -> None:
    with capture("06_retry_stamina") as spans:
        [(_, ledger)] = requests(spans, "gateway", "GET /retry/stamina/{k}")
    assert spent_ms(ledger, Category.BACKOFF) == pytest.approx(0.84 * ledger.duration_ns / 1e6, rel=0.01)


def test_enqueuing_is_as_long_as_its_answer() -> None:
    with capture("11_celery") as spans:
        [(request, _)] = requests(spans, "celapi", "GET /enqueue")
    assert 100 < request.duration_ns / 1e6 < 300


def test_a_message_that_waited_is_no_slow_request() -> None:
    with capture("14b_aio_pika") as spans:
        assert max(ledger.duration_ns for _, ledger in requests(spans, "consumer", "jobs receive")) < 200_000_000
        assert {row.endpoint for row in overview(spans).endpoints} == {"jobs receive", "place_order"}


def test_a_websocket_is_no_request() -> None:
    with capture("34_websocket") as spans:
        report = overview(spans)
    assert report.endpoints == ()
    assert ("websocket connections", 1) in report.left_out


def test_a_lost_service_is_said_once() -> None:
    with capture("32_sigterm", "old") as spans:
        notes = overview(spans).notes
    assert any("not received" in note or "missing" in note or "lost" in note for note in notes)
    with capture("32b_sigint", "old") as spans:
        assert overview(spans).notes == ()
