"""What the official exporters of Python and JavaScript send to a real server can be asked for, and they log nothing."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.app.exporters import send_by_javascript, send_by_python
from tests.server import Server

pytestmark = pytest.mark.slow

_REPORTS_AGE_S = 20
"""Reports on live data may be some seconds old."""


def asked(server: Server, path: str, **parameters: str) -> Any:
    with server.client() as client:
        answer = client.get(path, params={"dataset": 0, "last": "all", **parameters})
    assert answer.status_code == 200, answer.text
    return answer.json()["report"]


def expect_requests(server: Server, service: str, count: int) -> dict[str, Any]:
    """Checks that so many requests of two spans each are found by service; gives the attributes of a query."""
    rows: list[tuple[int, str]] = []
    expected = [(count, "GET /orders")]
    deadline = time.monotonic() + _REPORTS_AGE_S
    while rows != expected and time.monotonic() < deadline:
        endpoints = asked(server, "/api/endpoints")["endpoints"]
        rows = [(each["count"], each["endpoint"]) for each in endpoints if each["service"] == service]
    assert rows == expected
    while (found := asked(server, "/api/traces", service=service))["matched"] != count:
        assert time.monotonic() < deadline
    trace_id = found["rows"][0]["trace_id"]
    trace = asked(server, "/api/trace", trace_id=trace_id)
    assert [each["name"] for each in trace["rows"]] == ["GET /orders", "SELECT"]
    request, query = (
        json.loads(asked(server, "/api/span", trace_id=trace_id, span_id=each["span_id"])["attributes"])
        for each in trace["rows"]
    )
    assert request["http.route"] == "/orders"
    attributes: dict[str, Any] = query
    assert 0 <= attributes["number"] < count
    return attributes


COMBINATIONS = [
    *(("http/protobuf", compression) for compression in ("none", "gzip", "deflate")),
    *(("http/json", compression) for compression in ("none", "gzip", "deflate")),
    # The gRPC exporter knows gzip and the absence of a setting.
    *(("grpc", compression) for compression in ("", "gzip")),
]


@pytest.mark.parametrize(("exporter", "compression"), COMBINATIONS)
def test_all_three_signals_of_python_are_taken_without_a_word(server: Server, exporter: str, compression: str) -> None:
    service, before = f"shop-{exporter.replace('/', '-')}-{compression}", server.live_spans()
    items = other_signal_items(server)
    variables = {"OTEL_EXPORTER_OTLP_COMPRESSION": compression} if compression else {}
    logged = send_by_python(server, exporter, service, 25, signals="traces,metrics,logs", **variables)
    assert not logged
    assert server.live_spans() == before + 50
    expect_requests(server, service, 25)
    # One counter with two sets of attributes, collected by the flush and once more by the shutdown.
    assert other_signal_items(server) == {"metrics": items["metrics"] + 4, "logs": items["logs"] + 25}


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("exporter", ["http/protobuf", "http/json", "grpc"])
def test_spans_of_javascript_can_be_asked_for(
    server: Server, javascript: None, exporter: str, compression: str
) -> None:
    service, before = f"js-{exporter.replace('/', '-')}-{compression}", server.live_spans()
    told = send_by_javascript(server, exporter, service, 25, OTEL_EXPORTER_OTLP_COMPRESSION=compression)
    assert not told.logged
    assert (told.exported, told.failed) == (50, 0)
    assert server.live_spans() == before + 50
    attributes = expect_requests(server, service, 25)
    expected = {"number": attributes["number"], "ratio": 0.5, "flag": True, "größe": "ü", "list": ["a", "b"]}
    assert attributes == expected


def test_a_slash_at_the_end_of_the_endpoint_loses_nothing(server: Server) -> None:
    before = server.live_spans()
    endpoint = f"{server.url}/v1/traces/"
    send_by_python(server, "http/protobuf", "slash", 5, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=endpoint)
    assert server.live_spans() == before + 10


def other_signal_items(server: Server) -> dict[str, int]:
    """Data points and log records that came so far."""
    with server.client() as client:
        items: dict[str, int] = client.get("/api/status").json()["other_signal_items"]
    return items
