"""What people see in a real Chromium: every page, both themes, wide and narrow, with and without scripts."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from playwright.sync_api import Browser, expect

from app.links import parse_instant
from tests.browser.conftest import Visit, visit
from tests.server import Server, running_server

PLACES = (
    "overview",
    "endpoint",
    "queues",
    "retries",
    "fixes",
    "fix",
    "detector",
    "traces",
    "trace",
    "send",
    "first",
    "upload",
    "datasets",
    "settings",
    "ingest",
    "bad",
)
CHARTS = {"endpoint", "queues", "retries"}


@pytest.fixture(scope="session")
def addresses(hostile_server: Server) -> dict[tuple[str, int], str]:
    """Where each place is, in the hostile dataset (1) and in the example (2)."""
    found = {}
    with httpx.Client(base_url=hostile_server.url, trust_env=False, timeout=60) as client:

        def link(address: str, pattern: str) -> str:
            matched = re.search(pattern, client.get(address).text)
            assert matched, f"{address} has no link like {pattern}"
            return html.unescape(matched[1])

        for dataset in (1, 2):
            scope = f"?dataset={dataset}&last=all"
            by_name = {
                "overview": f"/{scope}",
                "endpoint": link(f"/{scope}", r'href="(/endpoint[^"]*)"'),
                "queues": f"/queues{scope}",
                "retries": f"/retries{scope}",
                "fixes": f"/fixes{scope}",
                "fix": link(f"/fixes{scope}", r'href="(/fix/[^"]*)"'),
                "detector": f"/detectors/pool-wait{scope}",
                "traces": f"/traces{scope}",
                "trace": link(f"/traces{scope}", r'href="(/trace/[^"]*span=[^"]*)"'),
                "send": f"/send{scope}",
                "first": "/?dataset=0",
                "upload": f"/upload{scope}",
                "datasets": f"/datasets{scope}",
                "settings": f"/settings{scope}",
                "ingest": f"/ingest{scope}",
                "bad": "/trace/%3Cb%20class=injected%3E",
            }
            found.update({(name, dataset): hostile_server.url + address for name, address in by_name.items()})
    return found


@pytest.fixture(scope="module", params=[(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")], ids=str)
def seen(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Visit]:
    width, scheme = request.param
    opened = visit(browser, width, scheme)
    yield opened
    opened.context.close()


@pytest.mark.parametrize("dataset", [1, 2], ids=["hostile", "example"])
@pytest.mark.parametrize("place", PLACES)
def test_a_page_is_whole(seen: Visit, addresses: dict[tuple[str, int], str], place: str, dataset: int) -> None:
    seen.open(addresses[place, dataset])
    charts = seen.charts_drawn()
    if dataset == 2 and place in CHARTS:
        assert charts > 0
    complaints = [text for text in seen.complaints if "400 (Bad Request)" not in text or place != "bad"]
    assert complaints == []
    assert seen.page.evaluate("window.hacked") is None
    assert seen.page.locator(".injected").count() == 0
    assert seen.overflow() <= 0
    assert seen.page.locator("main h1").count() == 1


def test_names_show_literally_in_charts(browser: Browser, addresses: dict[tuple[str, int], str]) -> None:
    seen = visit(browser)
    seen.open(addresses["endpoint", 1])
    seen.charts_drawn()
    labels = " ".join(seen.page.locator("[data-plot] .ytick text").all_text_contents())
    assert "<b class=injected>" in labels.replace("…", "") or "<" in labels
    assert seen.page.locator("[data-plot] .ytick text b").count() == 0
    seen.context.close()


def test_charts_follow_the_theme(browser: Browser, addresses: dict[tuple[str, int], str]) -> None:
    seen = visit(browser)
    seen.open(addresses["endpoint", 2])
    seen.charts_drawn()
    bar = "() => getComputedStyle(document.querySelector('[data-plot] .ytick text')).fill"
    light = seen.page.evaluate(bar)
    seen.page.get_by_role("button", name="Dark").click()
    seen.page.wait_for_function(f"({bar})() !== {light!r}")
    seen.page.reload()
    assert seen.page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert seen.complaints == []
    seen.context.close()


def test_the_value_axis_can_be_linear(browser: Browser, addresses: dict[tuple[str, int], str]) -> None:
    seen = visit(browser)
    seen.open(addresses["endpoint", 2])
    seen.charts_drawn()
    seen.page.get_by_role("button", name="linear axis").click()
    seen.page.wait_for_function("document.querySelector('[data-plot]')._fullLayout.yaxis.type === 'linear'")
    seen.context.close()


MIDDLE = """([times, durations]) => {
    const plot = document.querySelector("[data-brush] [data-plot]");
    const { xaxis, yaxis } = plot._fullLayout, { x, y } = plot.getBoundingClientRect();
    const wall = times.map((at) => new Date(at).toLocaleString("sv-SE"));
    return [[x + xaxis._offset + xaxis.d2p(wall[0]), y + yaxis._offset + yaxis.d2p(durations[0])],
            [x + xaxis._offset + xaxis.d2p(wall[1]), y + yaxis._offset + yaxis.d2p(durations[1])]];
}"""
"""Pixels of two corners given by time (ms since the epoch) and duration (ms)."""


def test_a_region_of_the_map_becomes_the_chosen_requests(
    browser: Browser, addresses: dict[tuple[str, int], str]
) -> None:
    """In a zone with another clock: what is chosen are instants, not readings of the clock on the wall."""
    seen = visit(browser, timezone="America/St_Johns")
    seen.open(addresses["endpoint", 2])
    seen.charts_drawn()
    heat = seen.page.evaluate("JSON.parse(document.querySelector('[data-brush] script').textContent).data[0]")
    counts = heat["customdata"]
    row, column = max(
        ((row, column) for row, cells in enumerate(counts) for column, count in enumerate(cells) if count),
        key=lambda at: int(counts[at[0]][at[1]]),
    )
    shown = seen.page.evaluate("document.querySelector('[data-brush] [data-plot]')._fullLayout.xaxis.range[0]")
    first = datetime.fromtimestamp(heat["x"][0] / 1000, ZoneInfo("America/St_Johns"))
    assert f"{first:%Y-%m-%d %H:%M}" == shown.replace("T", " ")[:16]
    corners = [heat["x"][column : column + 2], heat["y"][row : row + 2]]
    seen.page.locator("[data-brush]").scroll_into_view_if_needed()
    (left, bottom), (right, top) = seen.page.evaluate(MIDDLE, corners)
    seen.page.mouse.move((left + right) / 2 - 2, (top + bottom) / 2)
    seen.page.mouse.move((left + right) / 2, (top + bottom) / 2)
    seen.page.wait_for_timeout(200)
    with seen.page.expect_navigation():
        seen.page.mouse.click((left + right) / 2, (top + bottom) / 2)
    expect(seen.page.locator(".verdict")).to_contain_text(f"{counts[row][column]} requests chosen")
    clicked = {name: values[0] for name, values in parse_qs(urlsplit(seen.page.url).query).items()}
    assert parse_instant("", clicked["began_from"]) == round(heat["x"][column] * 1e6)

    seen.open(addresses["endpoint", 2])
    seen.charts_drawn()
    seen.page.locator("[data-brush]").scroll_into_view_if_needed()
    # Lower drags choose times only.
    corners = [[heat["x"][3], heat["x"][9]], [10, 100]]
    (left, bottom), (right, top) = seen.page.evaluate(MIDDLE, corners)
    seen.page.mouse.move(left, bottom)
    seen.page.mouse.down()
    seen.page.mouse.move(right, top, steps=5)
    with seen.page.expect_navigation():
        seen.page.mouse.up()
    dragged = {name: values[0] for name, values in parse_qs(urlsplit(seen.page.url).query).items()}
    pixel_ns = (heat["x"][9] - heat["x"][3]) / (right - left) * 1e6
    for name, at in zip(("began_from", "began_to"), corners[0], strict=True):
        assert parse_instant("", dragged[name]) == pytest.approx(at * 1e6, abs=2 * pixel_ns)
    for name, took in zip(("min_ms", "max_ms"), corners[1], strict=True):
        assert float(dragged[name]) == pytest.approx(took, rel=0.08)
    expect(seen.page.locator(".notice")).to_contain_text("against all others of the window")
    assert seen.complaints == []
    seen.context.close()


def test_a_region_can_be_chosen_without_javascript(browser: Browser, addresses: dict[tuple[str, int], str]) -> None:
    seen = visit(browser, 360, scripts=False)
    seen.page.goto(addresses["endpoint", 2])
    seen.page.get_by_text("Choose requests by time and duration").click()
    seen.page.get_by_label("Took at least, ms").fill("50")
    seen.page.get_by_role("button", name="Compare").click()
    expect(seen.page.locator(".notice")).to_contain_text("took at least 50.0 ms, against all others")
    expect(seen.page.locator(".verdict")).to_contain_text("requests chosen")
    seen.page.get_by_label("Took at least, ms").fill("500000")
    seen.page.get_by_role("button", name="Compare").click()
    expect(seen.page.locator(".notice")).to_contain_text("No request of this window took at least")
    expect(seen.page.locator(".verdict")).to_contain_text("of requests take longer")
    seen.context.close()


@pytest.mark.parametrize("place", PLACES)
def test_pages_work_without_javascript(browser: Browser, addresses: dict[tuple[str, int], str], place: str) -> None:
    seen = visit(browser, 360, scripts=False)
    seen.page.goto(addresses[place, 2])
    assert seen.page.locator("main h1").count() == 1
    assert seen.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    if place in CHARTS:
        assert seen.page.locator("main table").count() > 0
    if place == "overview":
        expect(seen.page.locator("form.scope button[type=submit]")).to_be_visible()
    seen.context.close()


def test_the_scope_form_works_without_javascript(browser: Browser, hostile_server: Server) -> None:
    seen = visit(browser, scripts=False)
    seen.page.goto(f"{hostile_server.url}/queues?dataset=2&last=all")
    seen.page.select_option("select[name=dataset]", "1")
    seen.page.get_by_role("button", name="Show").click()
    assert "/queues?" in seen.page.url
    assert "dataset=1" in seen.page.url
    seen.context.close()


def test_choosing_a_dataset_opens_it(browser: Browser, hostile_server: Server) -> None:
    seen = visit(browser)
    seen.page.goto(f"{hostile_server.url}/?dataset=2&from=2020-01-01&to=2030-01-01")
    seen.page.select_option("select[name=dataset]", "1")
    seen.page.wait_for_url("**dataset=1*")
    assert "from=" not in seen.page.url
    expect(seen.page.locator(".verdict")).to_be_visible()
    seen.context.close()


def test_selecting_a_span_keeps_the_waterfall(browser: Browser, addresses: dict[tuple[str, int], str]) -> None:
    seen = visit(browser)
    seen.open(addresses["trace", 2])
    seen.page.evaluate("window.stayed = true")
    last = seen.page.locator(".wf li").last
    span_id = (last.get_attribute("id") or "").removeprefix("s-")
    last.locator("a").click()
    expect(seen.page.locator("#span-panel code", has_text=span_id).first).to_be_visible()
    assert seen.page.evaluate("window.stayed") is True
    assert f"span={span_id}" in seen.page.url
    rows = seen.page.locator("#span-panel tr[data-search]")
    everything = rows.count()
    seen.page.get_by_label("Find in attributes").fill("service.name")
    assert 0 < rows.filter(visible=True).count() < everything
    assert seen.complaints == []
    seen.context.close()


def test_everything_is_reached_by_keyboard(browser: Browser, addresses: dict[tuple[str, int], str]) -> None:
    seen = visit(browser)
    # Without its fragment: that is where the first Tab would start from.
    seen.page.goto(addresses["trace", 2].partition("#")[0])
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(60):
        seen.page.keyboard.press("Tab")
        tag = seen.page.evaluate("(document.activeElement.closest('.wf') || document.activeElement).tagName")
        if tag == "BODY":
            break
        reached.add(tag)
        assert seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert {"OL", "SELECT", "BUTTON", "A"} <= reached
    seen.context.close()


def test_the_first_span_opens_the_overview(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_server(tmp_path_factory.mktemp("first")) as server:
        seen = visit(browser)
        seen.page.goto(server.url)
        expect(seen.page.get_by_role("heading", name="Nothing has arrived yet")).to_be_visible()
        expect(seen.page.locator("[data-poll-text]")).to_contain_text("Waiting for the first span")
        request = ExportTraceServiceRequest()
        span = request.resource_spans.add().scope_spans.add().spans.add(name="GET /", kind=2, trace_id=b"1" * 16)
        span.span_id, span.start_time_unix_nano = b"12345678", time.time_ns()
        span.end_time_unix_nano = span.start_time_unix_nano + 1_000_000
        with server.client() as client:
            body = request.SerializeToString()
            answer = client.post("/v1/traces", content=body, headers={"content-type": "application/x-protobuf"})
        assert answer.status_code == 200
        expect(seen.page.locator(".totals")).to_contain_text("1 requests", timeout=10_000)
        assert seen.complaints == []
        seen.context.close()


def test_an_upload_says_what_is_wrong_and_opens_what_is_right(browser: Browser, hostile_server: Server) -> None:
    seen = visit(browser)
    seen.page.goto(f"{hostile_server.url}/upload")
    seen.page.set_input_files("input[type=file]", {"name": "a.json", "mimeType": "", "buffer": b'{"resourceSpans":[}'})
    seen.page.get_by_role("button", name="Upload").click()
    expect(seen.page.locator("[data-upload-status].bad")).to_contain_text(re.compile("line|column|byte|JSON"))
    good = (
        b'[{"traceId":"5af7183fb1d4cf5f","id":"6b221d5bc9e6496c","name":"get /a","kind":"SERVER",'
        b'"timestamp":1556604172355737,"duration":1431,"localEndpoint":{"serviceName":"shop"}}]'
    )
    seen.page.set_input_files("input[type=file]", {"name": "z.json", "mimeType": "", "buffer": good})
    seen.page.get_by_label("Name").fill("<b class=injected>mine</b>")
    seen.page.get_by_role("button", name="Upload").click()
    seen.page.wait_for_url("**/?dataset=*")
    expect(seen.page.locator("select[name=dataset] option[selected]")).to_contain_text("<b class=injected>mine</b>")
    seen.context.close()


def test_going_back_shows_the_window_of_the_page(browser: Browser, addresses: dict[tuple[str, int], str]) -> None:
    seen = visit(browser)
    seen.open(addresses["overview", 2])
    window = seen.page.get_by_label("Window")
    dataset = seen.page.get_by_label("Dataset")
    before = window.input_value(), dataset.input_value()
    with seen.page.expect_navigation():
        window.select_option("1h")
    with seen.page.expect_navigation():
        dataset.select_option("1")
    seen.page.go_back()
    seen.page.go_back()
    assert seen.page.url == addresses["overview", 2]
    assert (window.input_value(), dataset.input_value()) == before
    assert window.is_enabled()
    seen.context.close()


def test_a_refused_file_is_explained_beside_the_form(
    browser: Browser, addresses: dict[tuple[str, int], str], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no traces")
    seen = visit(browser)
    seen.open(addresses["upload", 2])
    seen.page.set_input_files("input[type=file]", tmp_path / "notes.txt")
    seen.page.get_by_role("button", name="Upload").click()
    status = seen.page.locator("[data-upload-status].bad")
    status.wait_for()
    assert "not a known trace format" in status.inner_text()
    assert "OTLP JSON lines" in status.inner_text()
    seen.context.close()
