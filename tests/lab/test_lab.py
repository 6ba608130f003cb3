"""The lab's faults are really there: spans of the official instrumentation show each, and none when healthy."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import pytest

from tests.lab.capture import Capture, CapturedSpan
from tests.lab.lab import Lab
from tests.lab.lent import lent_servers
from tests.lab.load import LoadReport
from tests.lab.servers import Servers

pytestmark = pytest.mark.slow

SECONDS = 5.0
RATE_PER_S = 40.0


@dataclass(frozen=True)
class Run:
    """What one short run of the lab sent and counted."""

    spans: list[CapturedSpan]
    protocols: set[str]
    load: LoadReport
    warm_up: int
    truth: dict[str, Any]

    def named(self, service: str, name: str) -> list[CapturedSpan]:
        """Return the spans of one service with one name."""
        return [span for span in self.spans if span.service == service and span.span.name == name]

    def children(self) -> dict[bytes, list[CapturedSpan]]:
        """Return spans by the id of their parent, in order of their start."""
        by_parent: defaultdict[bytes, list[CapturedSpan]] = defaultdict(list)
        for span in sorted(self.spans, key=lambda captured: captured.span.start_time_unix_nano):
            by_parent[span.span.parent_span_id].append(span)
        return by_parent

    def count(self, service: str, name: str) -> int:
        """Return what a service counted itself."""
        return int(self.truth[service]["counts"].get(name, 0))


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """One PostgreSQL and one Redis for all of them."""
    yield from lent_servers()


def run(
    servers: Servers, fault: str, protocol: str = "http/protobuf", semconv: str = "", seconds: float = SECONDS
) -> Run:
    """Run the lab for a few seconds against a capture server."""
    with Capture() as capture:
        with Lab(
            endpoint=capture.endpoint(protocol), fault=fault, protocol=protocol, semconv=semconv, servers=servers
        ) as lab:
            load = lab.drive(seconds=seconds, rate=RATE_PER_S)
            assert lab.wait_for_worker(30) == 0
            truth = lab.stop()
        return Run(capture.spans(), capture.protocols, load, lab.warm_up, truth)


def is_client(span: CapturedSpan, scope: str) -> bool:
    """Tell whether a span is a CLIENT span of one instrumentation."""
    return span.span.kind == span.span.SPAN_KIND_CLIENT and span.scope == f"opentelemetry.instrumentation.{scope}"


def gap_ms(earlier: CapturedSpan, later: CapturedSpan) -> float:
    """Return the time from the end of one span to the start of another."""
    return float(later.span.start_time_unix_nano - earlier.span.end_time_unix_nano) / 1e6


def test_healthy_over_json_loses_nothing_and_has_no_fault(servers: Servers) -> None:
    """Every request has its spans, none failed, waited for a connection or was tried again."""
    seen = run(servers, "healthy", "http/json", "http,database")
    assert seen.protocols == {"http/json"}
    assert set(seen.load.statuses) == {"200", "201"}
    assert seen.load.requests == SECONDS * RATE_PER_S
    entries = [s for s in seen.spans if s.service == "gateway" and s.span.kind == s.span.SPAN_KIND_SERVER]
    assert len(entries) == seen.load.requests + seen.warm_up
    assert {span.attributes["http.response.status_code"] for span in entries} == {200, 201}
    assert not [span for span in seen.spans if span.span.status.code == span.span.status.STATUS_CODE_ERROR]
    # The first spans of a process open its connections; those have no parent or are the warm-up's.
    waits = [span for span in seen.named("orders", "connect") if span.span.parent_span_id]
    assert len(waits) > RATE_PER_S
    assert sum(span.duration_ms > 50 for span in waits) <= len(waits) * 0.02
    assert seen.count("gateway", "quote_attempts") == seen.count("gateway", "checkouts")
    jobs = seen.named("worker", "run/shop.send_receipt")
    assert len(jobs) == seen.count("orders", "orders_placed") == seen.count("worker", "receipts")


def test_repeated_queries_and_serial_calls(servers: Servers) -> None:
    """One order history has a query for each order; one dashboard makes its three calls end to end."""
    seen = run(servers, "n_plus_one,serial_awaits")
    assert seen.protocols == {"http/protobuf"}
    children = seen.children()
    histories = [s for s in seen.named("orders", "GET /orders") if s.span.kind == s.span.SPAN_KIND_SERVER]
    assert len(histories) == seen.count("orders", "histories_n_plus_one")
    for history in histories:
        lines = [s for s in children[history.span.span_id] if is_client(s, "sqlalchemy") and s.span.name == "SELECT"]
        assert len(lines) >= 10
        assert len({span.attributes["db.statement"] for span in lines}) == 2
    dashboards = seen.named("gateway", "GET /dashboard/{customer_id}")
    assert len(dashboards) == seen.count("gateway", "dashboards_serial")
    for dashboard in dashboards:
        calls = [span for span in children[dashboard.span.span_id] if is_client(span, "httpx")]
        assert len(calls) == 3
        assert gap_ms(calls[0], calls[1]) > -1
        assert gap_ms(calls[1], calls[2]) > -1


def test_small_pool_over_grpc(servers: Servers) -> None:
    """Requests wait in SQLAlchemy's `connect`, as often as the service measured itself."""
    seen = run(servers, "small_pool", "grpc")
    assert seen.protocols == {"grpc"}
    waits = [span for span in seen.named("orders", "connect") if span.duration_ms > 50]
    measured = seen.truth["orders"]["durations"]["pool_checkout"]["over_50_ms"]
    assert measured >= 5
    # The service's own clock also covers the event loop's delay after the checkout.
    assert measured * 0.7 <= len(waits) <= measured * 1.1
    assert all(is_client(span, "sqlalchemy") for span in waits)


def test_retries_slow_consumer_and_blocked_loop(servers: Servers) -> None:
    """Failed calls are repeated at once, jobs wait behind one another, and a signature stops the event loop."""
    # Each twelfth signature blocks the loop: of some 20, as in the shorter runs, a busy machine once saw fewer than 12.
    seen = run(servers, "retry_no_backoff,slow_consumer,blocked_loop", seconds=2 * SECONDS)
    children = seen.children()
    retried = 0
    backoffs_ms: list[float] = []
    for checkout in seen.named("gateway", "GET /checkout/{cart_id}"):
        calls = [
            s for s in children[checkout.span.span_id] if is_client(s, "httpx") and "/quotes/" in str(s.attributes)
        ]
        codes = [span.attributes["http.status_code"] for span in calls]
        assert codes[:-1] == [503] * (len(codes) - 1)
        retried += len(codes) > 1
        backoffs_ms += [gap_ms(before, after) for before, after in pairwise(calls)]
    assert retried == seen.count("gateway", "quotes_retried") > 0
    assert median(backoffs_ms) < 15
    quotes = [s for s in seen.named("payments", "GET /quotes/{cart_id}") if s.span.kind == s.span.SPAN_KIND_SERVER]
    assert len(quotes) == seen.count("gateway", "quote_attempts") > seen.count("gateway", "checkouts")

    senders = {span.span.span_id: span for span in seen.named("orders", "apply_async/shop.send_receipt")}
    jobs = seen.named("worker", "run/shop.send_receipt")
    assert len(jobs) == len(senders) == seen.count("orders", "orders_placed")
    assert all(job.span.kind == job.span.SPAN_KIND_CONSUMER for job in jobs)
    waits_ms = sorted(gap_ms(senders[job.span.parent_span_id], job) for job in jobs)
    assert waits_ms[-1] > 300

    methods = [span.duration_ms for span in seen.named("payments", "GET /customers/{customer_id}/methods")]
    assert sum(duration > 250 for duration in methods) >= seen.count("payments", "methods_blocking") > 0


def test_nothing_is_left_running(servers: Servers) -> None:
    """Processes of a run are gone after it, also when the code under `with` fails."""
    pids: dict[str, int] = {}
    with Capture() as capture:
        endpoint = capture.endpoint("http/protobuf")
        with contextlib.suppress(ZeroDivisionError), Lab(endpoint=endpoint, servers=servers) as lab:
            pids = lab.pids()
            raise ZeroDivisionError
    alive = [name for name, pid in pids.items() if name not in servers.pids() and is_alive(pid)]
    assert len(pids) == 6
    assert alive == []


def is_alive(pid: int) -> bool:
    """Tell whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
