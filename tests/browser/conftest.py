"""A real Chromium and a real server for tests of what people see."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, sync_playwright

from tests.app.pages_served import served_hostile
from tests.server import Server

_CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or the one that SPANWISE_TEST_CHROMIUM names.

    One a module: while Playwright is open its event loop runs, and no other test could use `asyncio.run`.
    """
    named = os.environ.get("SPANWISE_TEST_CHROMIUM", "")
    path = named or next((path for path in _CHROMIUM if shutil.which(path)), "")
    if not path:
        pytest.skip("no Chromium at " + ", ".join(_CHROMIUM))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def hostile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Dataset 1 is hostile, dataset 2 the example."""
    with served_hostile(tmp_path_factory.mktemp("browser"), command="demo") as server:
        yield server


@dataclass
class Visit:
    """One browser page with everything it complained about."""

    page: Page
    context: BrowserContext
    complaints: list[str] = field(default_factory=list)

    def open(self, url: str) -> None:
        """Loads the page and scrolls through it, so that every chart is drawn."""
        self.complaints.clear()
        self.page.goto(url)
        self.page.evaluate("""async () => {
            for (let y = 0; y < Math.min(document.body.scrollHeight, 20000); y += 500) {
                scrollTo(0, y);
                await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)));
            }
        }""")

    def charts_drawn(self) -> int:
        self.page.wait_for_function(
            "[...document.querySelectorAll('[data-plot]')].every((plot) => plot.dataset.drawn)", timeout=15_000
        )
        return int(self.page.evaluate("document.querySelectorAll('[data-plot] .main-svg').length"))

    def overflow(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def visit(
    browser: Browser, width: int = 1280, scheme: str = "light", scripts: bool = True, timezone: str | None = None
) -> Visit:
    """A fresh browser page of that width, theme and clock, with or without JavaScript."""
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
        java_script_enabled=scripts,
        timezone_id=timezone,
    )
    seen = Visit(context.new_page(), context)

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            seen.complaints.append(message.text)

    def asked(dialog: Dialog) -> None:
        seen.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    seen.page.on("console", heard)
    seen.page.on("dialog", asked)
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    return seen
