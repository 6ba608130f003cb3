"""The ingest page of a server that hostile senders write to, as people see it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.app.hostile_spans import PAYLOADS
from tests.app.test_ingest import document
from tests.browser.conftest import visit
from tests.server import Server, running_server


@pytest.fixture(scope="module")
def busy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Every payload has sent spans, some of them broken, and bodies that cannot be taken."""
    with running_server(tmp_path_factory.mktemp("busy"), "--max-body-bytes", "64KiB") as server:
        with server.client() as client:
            for number, payload in enumerate(PAYLOADS):
                name = payload.replace("\x1b", "")
                for body, encoding in (
                    (document(20 * number + 1, 20, name), ""),
                    (document(0, 1, name), ""),
                    (document(1, 400, name), ""),
                    (b"{", name.encode("ascii", "replace").decode()),
                ):
                    headers = {"Content-Type": "application/json"} | (
                        {"Content-Encoding": encoding} if encoding else {}
                    )
                    client.post("/v1/traces", content=body, headers=headers)
            client.get("/queues")
        yield server


@pytest.mark.parametrize("width", [360, 800, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_whole(browser: Browser, busy_server: Server, width: int, scheme: str) -> None:
    seen = visit(browser, width, scheme)
    seen.open(f"{busy_server.url}/ingest")
    assert seen.charts_drawn() > 0
    assert seen.complaints == []
    assert seen.page.evaluate("window.hacked") is None
    assert seen.page.locator(".injected").count() == 0
    assert seen.overflow() <= 0
    expect(seen.page.locator(".verdict")).to_contain_text("Not everything that came in the last 10 min was stored")
    expect(seen.page.get_by_text("<b class=injected>bold</b>").first).to_be_visible()
    seen.context.close()


def test_the_chart_is_a_table_without_scripts(browser: Browser, busy_server: Server) -> None:
    seen = visit(browser, 360, scripts=False)
    seen.page.goto(f"{busy_server.url}/ingest")
    seen.page.get_by_text("The same as a table").click()
    received = seen.page.get_by_role("region", name="What arrives, table").locator("tbody td:nth-child(2)")
    assert sum(int(text.replace("\u2009", "")) for text in received.all_text_contents()) == 21 * len(PAYLOADS)
    assert seen.overflow() <= 0
    seen.context.close()
