"""Pages of the whole application: every link leads somewhere, forms work, failures are pages."""

from __future__ import annotations

import gzip
import html
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.app.pages_served import served_hostile

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with served_hostile(tmp_path_factory.mktemp("pages")) as server, server.client() as client:
        yield client


def hrefs(text: str) -> set[str]:
    return {html.unescape(found).partition("#")[0] for found in re.findall(r'(?:href|src)="(/[^"]*)"', text)}


def test_every_link_of_every_page_leads_somewhere(client: httpx.Client) -> None:
    """Follows all links from the overview, a few of each kind."""
    waiting, kinds, seen = ["/"], dict[str, int](), set[str]()
    while waiting:
        address = waiting.pop(0)
        kind = re.sub(r"[0-9a-f]{16,}", "ID", address.partition("?")[0]) + str("span=" in address)
        if address in seen or kinds.get(kind, 0) >= 3:
            continue
        seen.add(address)
        if address.startswith(("/plotly/", "/static/")):
            assert client.get(address).status_code == 200, address
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
        answer = client.get(address)
        assert answer.status_code == 200, f"{address}: {answer.text[:300]}"
        assert "'unsafe-inline'" not in answer.headers["content-security-policy"]
        waiting += sorted(hrefs(answer.text) - seen)
    reached = {kind.removesuffix("True").removesuffix("False") for kind in kinds}
    assert {"/", "/endpoint", "/queues", "/retries", "/fixes", "/fix/ID", "/traces", "/trace/ID", "/compare"} <= reached
    assert {"/ingest", "/send", "/upload", "/datasets", "/settings"} <= reached


@pytest.mark.parametrize(
    ("address", "status", "named"),
    [
        ("/?dataset=99", 400, "99"),
        ("/?last=2h", 400, "2h"),
        ("/?from=2026-01-01", 400, "to"),
        ("/endpoint?service=a", 400, "endpoint"),
        ("/endpoint?service=a&endpoint=b", 404, "no request"),
        ("/endpoint?service=a&endpoint=b&began_from=now", 400, "now"),
        ("/endpoint?service=a&endpoint=b&min_ms=9&max_ms=8", 400, "min_ms"),
        ("/endpoint?service=a&endpoint=b&max_ms=1e9", 400, "1e9"),
        ("/trace/zz", 400, "zz"),
        ("/compare", 400, "trace"),
        (f"/compare?trace={1:032x}", 400, "other"),
        (f"/compare?trace={1:032x}&other=zz", 400, "zz"),
        (f"/compare?trace={1:032x}&other={1:032x}&other_span=zz", 400, "zz"),
        (f"/compare?trace={1:032x}&other={1:032x}&other_span=ffff", 404, "ffff"),
        (f"/compare?trace={'f' * 32}&other={1:032x}", 404, "f" * 32),
        ("/trace/..%2f..%2fetc", 404, ""),
        ("/trace/%00", 400, "trace id"),
        ("/trace/" + "f" * 32, 404, "f" * 32),
        ("/trace/" + f"{1:032x}?span=zz", 400, "zz"),
        ("/trace/" + f"{1:032x}?span=ffff", 404, "ffff"),
        ("/trace?id=" + "g" * 5000, 400, "ggg"),
        ("/traces?min_ms=-1", 400, "-1"),
        ("/traces?order=x", 400, "order"),
        ("/traces?offset=99999999", 400, "99999999"),
        ("/fix/nothing", 404, "nothing"),
        ("/detectors/nothing", 404, "nothing"),
        ("/detectors/%3Cb%3E", 404, "&lt;b&gt;"),
        ("/nowhere", 404, ""),
    ],
)
def test_failures_are_pages_that_name_the_value(client: httpx.Client, address: str, status: int, named: str) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert "<h1>" in answer.text
    assert named in answer.text
    assert "Traceback" not in answer.text


def test_an_empty_live_dataset_shows_how_to_send(client: httpx.Client) -> None:
    page = client.get("/?dataset=0").text
    assert "Nothing has arrived yet" in page
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in page
    assert f"OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:{client.base_url.port}" in page
    assert 'action="/example"' in page


def test_a_trace_is_opened_by_its_id(client: httpx.Client) -> None:
    answer = client.get(f"/trace?id={2:032X}&dataset=1&last=all")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/trace/{2:032x}?dataset=1&last=all"


def test_filters_of_the_list_hold(client: httpx.Client) -> None:
    assert "requests match" in client.get("/traces?dataset=1&min_ms=800").text
    assert "No request matches" in client.get("/traces?dataset=1&min_ms=800.5&max_ms=800.6").text
    pages = [client.get(f"/traces?dataset=1&offset={offset}").text for offset in (0, 50)]
    assert 'rel="next"' in pages[0]
    assert 'rel="prev"' in pages[1]
    assert hrefs(pages[0]) & hrefs(pages[1]) < {link for link in hrefs(pages[0]) if "span=" not in link}


def test_an_upload_becomes_a_dataset_and_can_be_deleted(client: httpx.Client) -> None:
    body = gzip.compress(
        b'{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},'
        b'"scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174",'
        b'"name":"GET /a","kind":2,"startTimeUnixNano":"1544712660000000000",'
        b'"endTimeUnixNano":"1544712661000000000"}]}]}]}'
    )
    answer = client.post("/upload", files={"file": ("a.json.gz", body)}, data={"name": "my <upload>"})
    assert answer.status_code == 303, answer.text
    location = answer.headers["location"]
    assert "my &lt;upload&gt;" in client.get(location).text
    number = re.findall(r"dataset=(\d+)", location)[0]
    gone = client.post(f"/datasets/{number}/delete?dataset={number}")
    assert gone.status_code == 303
    assert "my &lt;upload&gt;" not in client.get(gone.headers["location"]).text
    assert client.post("/datasets/999/delete").status_code == 404


def test_a_broken_upload_says_where(client: httpx.Client) -> None:
    answer = client.post("/upload", files={"file": ("<b>.json", b'{"resourceSpans":[}')})
    assert answer.status_code == 400
    assert "Nothing was imported" in answer.text
    nothing = client.post("/upload", data={"name": "x"}, files={})
    assert 400 <= nothing.status_code < 500


def test_another_site_cannot_upload_or_delete(client: httpx.Client) -> None:
    foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert client.post("/upload", files={"file": ("a", b"{}")}, headers=foreign).status_code == 403
    assert client.post("/datasets/0/delete", headers=foreign).status_code == 403
    assert client.get("/datasets/0/delete").status_code == 405


def test_the_example_explains_itself(client: httpx.Client) -> None:
    answer = client.post("/example")
    assert answer.status_code == 303
    page = client.get(answer.headers["location"]).text
    assert "verdict-slow" in page
    assert "Change first" in page
    assert "at p99" in page
    assert client.post("/example").headers["location"] == answer.headers["location"], "loaded once"
