"""The ingest page: its first sentence is right, and page, API and metrics of a real server tell the same numbers."""

from __future__ import annotations

import gzip
import html
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from app.ingest.stats import RECENT, ServiceSeen
from app.measuring.recent import CountSeries
from app.pages.ingest import IngestVerdict, verdict
from app.self_report import SelfReport, StoreState
from tests.app.self_report_made import LIMIT_BYTES, nothing_came, self_report_made
from tests.app.test_ingest import document
from tests.server import Server, running_server

JSON = {"Content-Type": "application/json"}


def report(last_error: str = "", /, queued_bytes: int = 0, **came: int) -> SelfReport:
    """A server to which nothing happened in the last ten minutes but what is named."""
    made = nothing_came()
    counts = {name: (0,) * 59 + (came.get(name, 0),) for name in RECENT}
    series = CountSeries(10, made.ingest.recent.start_ns, counts)
    ingest = replace(made.ingest, recent=series, last_error=last_error, queued_bytes=queued_bytes)
    return replace(made, ingest=replace(ingest, last_error_ns=made.now_ns - 3 * 10**9))


def received(**more: int) -> SelfReport:
    return report(received=1_200, accepted=1_150, duplicates=50, stored=12, **more)


def test_the_verdict_says_what_matters_most() -> None:
    for made, tone, text in (
        (report(), "unsure", "Nothing came in the last 10 min, and no span since the start 1.00 s ago."),
        (received(), "calm", "was stored: 1\u2009200 spans in 12 requests; 50 of them were known already."),
        (report(received=1, accepted=1, stored=1), "calm", "was stored: 1 span in 1 request."),
        (
            received(refused=1),
            "slow",
            "Not everything that came in the last 10 min was stored: 1 request asked to retry.",
        ),
        (
            received(refused=2, failed=3, rejected=4),
            "slow",
            "2 requests asked to retry, 3 requests refused or failed for good, 4 of 1\u2009200 spans rejected.",
        ),
        (
            received(queued_bytes=LIMIT_BYTES),
            "slow",
            "The queue is full (256 MiB in 0 requests): senders are asked",
        ),
        (
            report("disk full"),
            "broken",
            "The last spans that came, 3.00 s ago, were not stored: disk full.",
        ),
    ):
        found = verdict(made)
        assert (found.tone, text in found.text) == (tone, True), found


def test_the_verdict_adds_what_makes_it_worse() -> None:
    fine = report(received=5, accepted=5, stored=1)
    late = verdict(replace(fine, loop_lag=self_report_made().loop_lag))
    assert late == IngestVerdict(
        "slow",
        "Everything that came in the last 10 min was stored: 5 spans in 1 request. "
        "The event loop was held up for 700 ms in the last 5 min.",
    )
    assert "Only 512 MiB of disk are free." in verdict(replace(fine, store=StoreState(5, 1, 2**29, ""))).text
    down = verdict(replace(fine, store=StoreState(None, None, None, "It hangs.")))
    assert (down.tone, down.text) == ("broken", "The store does not answer: It hangs.")


def test_the_verdict_names_who_came_last() -> None:
    made = report()
    seen = replace(made, ingest=replace(made.ingest, services=(ServiceSeen("shop", 9, made.now_ns - 7200 * 10**9),)))
    assert verdict(seen).text == "Nothing came in the last 10 min; the last spans came 2 h 00 min ago, from shop."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ingest")
    with running_server(
        folder, "--max-body-bytes", "1MiB", "--body-timeout-s", "1", "--ingest-queue-bytes", "1MiB"
    ) as own:
        yield own


def metrics(client: httpx.Client) -> dict[tuple[str, str], float]:
    """Value by name and the first label's value."""
    text = client.get("/metrics").text
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if family.type != "histogram"
    }


def row(page: str, name: str) -> str:
    """The text of the table row that begins so."""
    found = re.search(rf'<tr><th scope="row">{name}.*?</tr>', page, re.DOTALL)
    assert found, name
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", found[0])).split())


def overload(client: httpx.Client) -> int:
    """Sends bodies of half a MiB at once until the queue of 1 MiB is full; how many were asked to retry."""
    body = document(1, 3_000, "flood")
    with ThreadPoolExecutor(12) as senders:
        answers = list(senders.map(lambda _: client.post("/v1/traces", content=body, headers=JSON), range(24)))
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 503)
    assert {answer.status_code for answer in answers} <= {200, 503}
    return sum(answer.status_code == 503 for answer in answers)


def leave_early(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as raw:
        raw.sendall(
            b"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        time.sleep(0.2)


def dawdle(client: httpx.Client) -> None:
    def slowly() -> Iterator[bytes]:
        yield b"{"
        time.sleep(2)
        yield b"}"

    assert client.post("/v1/traces", content=slowly(), headers=JSON).status_code == 408


def over_grpc(server: Server, body: bytes) -> grpc.StatusCode:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call: Any = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        with pytest.raises(grpc.RpcError) as caught:
            call(body, timeout=10)
        return caught.value.code()


@pytest.mark.slow
def test_page_api_and_metrics_tell_the_same_of_every_refusal(server: Server) -> None:
    with server.client() as client:

        def post(body: bytes, **headers: str) -> httpx.Response:
            return client.post("/v1/traces", content=body, headers={**JSON, **headers})

        assert "Nothing came in the last 10 min" in client.get("/ingest").text
        assert post(document(1, 40, "checkout")).status_code == 200
        assert post(document(31, 20, "checkout")).status_code == 200
        assert post(document(0, 5, "<b class=injected>cart</b>")).status_code == 200
        assert post(document(0, 1, "careless")).status_code == 200
        assert post(b"{").status_code == 400
        assert over_grpc(server, b"\xff\xff") is grpc.StatusCode.INVALID_ARGUMENT
        assert post(document(1, 1), **{"Content-Encoding": "br"}).status_code == 415
        assert post(b"x", **{"Content-Type": "text/html"}).status_code == 415
        assert post(document(1, 9_000)).status_code == 413
        assert post(gzip.compress(document(1, 9_000, "zipped")), **{"Content-Encoding": "gzip"}).status_code == 413
        leave_early(server)
        dawdle(client)
        retried = overload(client)
        client.get("/")
        found, page, counted = client.get("/api/ingest").json(), client.get("/ingest").text, metrics(client)

    stats = found["ingest"]
    assert retried > 0
    refusals = {each["reason"]: (each["count"], each["services"]) for each in stats["refusals"]}
    queue_full = refusals.pop("queue_full", (0, []))
    arriving = refusals.pop("too_many_arriving", (0, []))
    assert queue_full[0] + arriving[0] == retried == stats["refused_requests"]
    assert set(queue_full[1] + arriving[1]) <= {"flood"}
    assert refusals == {
        "bad_payload": (2, []),
        "unsupported_encoding": (1, []),
        "unsupported_media_type": (1, []),
        "too_large": (2, ["zipped"]),
        "sender_left": (1, []),
        "body_timeout": (1, []),
    }
    assert stats["failed_requests"] == 8
    [rejected] = stats["rejections"]
    assert (rejected["reason"], rejected["count"]) == ("span id is missing or all zero", 2)
    assert rejected["services"] == ["careless", "<b class=injected>cart</b>"]
    assert (stats["rejected_spans"], stats["partial_batches"]) == (2, 2)
    assert stats["received_spans"] == stats["accepted_spans"] + stats["duplicate_spans"] + stats["rejected_spans"]
    assert stats["received_spans"] == 66 + (24 - retried) * 3_000
    assert (stats["queued_requests"], stats["queued_bytes"], stats["oldest_wait_ns"]) == (0, 0, 0)
    recent = {name: sum(counts) for name, counts in stats["recent"]["counts"].items()}
    assert (recent["received"], recent["refused"], recent["failed"]) == (stats["received_spans"], retried, 8)

    for reason, (count, _) in refusals.items():
        assert counted["spanwise_ingest_refusals_total", reason] == count
    for outcome, key in (("stored", "accepted"), ("duplicate", "duplicate"), ("rejected", "rejected")):
        assert counted["spanwise_ingest_spans_total", outcome] == stats[f"{key}_spans"]
    assert counted["spanwise_ingest_requests_total", "refused"] == retried
    assert counted["spanwise_store_live_spans", ""] == found["store"]["live_spans"] == stats["accepted_spans"]
    services = {each["service"]: each["spans"] for each in stats["services"]}
    assert services["checkout"] == counted["spanwise_service_spans_total", "checkout"] == 60

    assert "verdict-slow" in page
    assert f"{retried} request{'s' * (retried > 1)} asked to retry, 8 requests refused or failed for good" in page
    assert "The body could not be read" in row(page, "The body could not be read")
    assert " 2 no use " in row(page, "The body was too large")
    assert " zipped " in row(page, "The body was too large")
    assert re.search(r"checkout 60 [\d.]+ m?s ago", row(page, "checkout"))
    assert "careless 0 " in row(page, "careless")
    assert "span id is missing or all zero 2 " in row(page, "span id is missing")
    assert row(page, "<code>overview").startswith("overview 1 ")
    assert "<b class=injected>" not in page


@pytest.mark.slow
def test_nothing_secret_is_shown(server: Server) -> None:
    secret = "canary-3f9a"
    with server.client() as client:
        headers = {**JSON, "Authorization": f"Bearer {secret}", "Cookie": f"session={secret}", "User-Agent": secret}
        client.post(f"/v1/traces?key={secret}", content=b"{", headers=headers)
        client.post("/v1/traces", content=document(1, 1), headers={**headers, "X-Forwarded-For": "203.0.113.9"})
        for path in ("/ingest", "/api/ingest", "/metrics"):
            text = client.get(path, headers=headers).text
            assert secret not in text
            assert "203.0.113.9" not in text
            assert "127.0.0.1" not in text
            assert str(server.log.parent) not in text


@pytest.mark.slow
def test_the_page_holds_in_any_scope(server: Server) -> None:
    with server.client() as client:
        for query in ("", "?dataset=99", "?last=2h", "?dataset=0&from=2026-01-01&to=2026-01-02"):
            answer = client.get(f"/ingest{query}")
            assert answer.status_code == 200
            assert "<h1>Ingest</h1>" in answer.text
