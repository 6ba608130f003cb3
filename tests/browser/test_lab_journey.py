"""The whole way: real services with a known fault, real exporters, and the fault named on the page in Chromium."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import visit
from tests.lab.lab import Lab
from tests.lab.lent import lent_servers
from tests.lab.servers import Servers
from tests.server import Server, running_server

pytestmark = pytest.mark.slow

REQUESTS = 240
RATE_PER_S = 20.0
# At this rate a busy machine spent more than 20 ms between two attempts, which then looked like a backoff.
CROWDED_PER_S = 40.0


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """One PostgreSQL and one Redis for all of them."""
    yield from lent_servers()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must end without complaints of its console: scripts, Content-Security-Policy, missing files."""
    seen = visit(browser)
    yield seen.page
    seen.context.close()
    assert seen.complaints == []


def journey(
    folder: Path, servers: Servers, fault: str, protocol: str, semconv: str = "", rate_per_s: float = RATE_PER_S
) -> Iterator[Server]:
    """Spanwise with what the lab sent it over one protocol in a few seconds."""
    with running_server(folder) as server:
        endpoint = f"http://127.0.0.1:{server.grpc_port if protocol == 'grpc' else server.http_port}"
        lab = Lab(endpoint=endpoint, fault=fault, protocol=protocol, semconv=semconv, servers=servers)
        # Playwright keeps an event loop running in this thread, and the lab's driver wants one of its own.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(drive, lab, rate_per_s).result(timeout=150)
        settle(server)
        yield server


def drive(lab: Lab, rate_per_s: float) -> None:
    """One short run, stopped so that every process sends its last batch."""
    with lab:
        lab.drive(seconds=REQUESTS / rate_per_s, rate=rate_per_s)
        assert lab.wait_for_worker(40) == 0
        lab.stop()


def settle(server: Server) -> None:
    """Waits until no more spans arrive: the services have ended, so all of theirs are on the way."""
    seen = -1
    for _ in range(40):
        now = server.live_spans()
        if now == seen and now > 0:
            return
        seen = now
        time.sleep(0.25)
    raise AssertionError(f"spans keep arriving: {seen}")


@pytest.fixture(scope="module")
def retrying(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("protobuf")
    yield from journey(folder, servers, "retry_no_backoff,slow_consumer", "http/protobuf")


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Server]:
    yield from journey(tmp_path_factory.mktemp("grpc"), servers, "small_pool", "grpc", rate_per_s=CROWDED_PER_S)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Server]:
    yield from journey(tmp_path_factory.mktemp("json"), servers, "n_plus_one,serial_awaits", "http/json")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("healthy")
    yield from journey(folder, servers, "healthy", "http/protobuf", "http,database")


def test_retries_without_backoff_over_protobuf(retrying: Server, page: Page) -> None:
    page.goto(retrying.url)
    title = "Stop repeating failed calls to payments GET /quotes/{cart_id} at once"
    expect(page.get_by_text(title).first).to_be_visible()
    page.get_by_role("link", name="Retries").click()
    expect(page.get_by_role("heading", name="What retries cost")).to_be_visible()
    expect(page.get_by_text("gateway → payments").first).to_be_visible()


def test_a_slow_consumer_over_protobuf(retrying: Server, page: Page) -> None:
    page.goto(retrying.url + "/queues")
    expect(page.get_by_role("heading", name="queue shop.send_receipt in worker")).to_be_visible()
    expect(page.get_by_text("measured").first).to_be_visible()


def test_a_small_pool_over_grpc(crowded: Server, page: Page) -> None:
    page.goto(crowded.url)
    link = page.get_by_role("link", name="Stop requests of orders waiting for connections to postgresql shop").first
    expect(link).to_be_visible()
    link.click()
    expect(page.get_by_role("heading", name="What it should bring")).to_be_visible()
    page.get_by_role("table").last.get_by_role("link").first.click()
    expect(page.get_by_role("heading", name="Where this request's time went")).to_be_visible()
    expect(page.get_by_text("orders: pool of postgresql shop").first).to_be_visible()


def test_n_plus_one_and_serial_calls_over_json(chatty: Server, page: Page) -> None:
    page.goto(chatty.url + "/fixes")
    expect(page.get_by_text("Fetch the rows of order_lines with one query").first).to_be_visible()
    expect(page.get_by_text("Await the 3 calls of GET /dashboard/{customer_id} together").first).to_be_visible()
    expect(page.get_by_text("Possible, not certain").first).to_be_visible()


def test_healthy_services_get_no_finding(healthy: Server, page: Page) -> None:
    page.goto(healthy.url + "/fixes")
    expect(page.get_by_role("main")).to_be_visible()
    with healthy.client() as client:
        report: dict[str, Any] = client.get("/api/fixes", params={"last": "all"}).json()["report"]
    assert [finding["title"] for finding in report["findings"] if finding["confidence"] != "low"] == []


def test_pages_show_without_javascript(crowded: Server, page: Page) -> None:
    assert page.context.browser is not None
    plain = page.context.browser.new_context(java_script_enabled=False).new_page()
    for path in ("/", "/queues", "/retries", "/fixes", "/traces", "/send", "/upload", "/settings"):
        answer = plain.goto(crowded.url + path)
        assert answer is not None
        assert answer.status == 200
        expect(plain.get_by_role("main")).to_be_visible()
    plain.context.close()
