"""Hostile bodies through a real server: stored or refused one by one, and every page shows what is there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import grpc
import pytest
from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse as Response

from tests.app.test_columnar import key_value, message, request, span
from tests.app.test_limits_bombs import PROTOBUF, processes
from tests.app.test_limits_spans import DEEP, DEPTHS, GOOD, json_request, nested
from tests.app.test_receivers_grpc import TRACES
from tests.server import Server, running_server

pytestmark = pytest.mark.slow

JSON = "application/json"
_numbers = itertools.count(1)
_LONG = "é" * (5 * 2**20)
_VALUE = '{"key":"k","value":%s}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all of it: what one body breaks, the next one meets."""
    with running_server(tmp_path_factory.mktemp("hostile")) as started:
        yield started


def both(attribute: bytes, text: str) -> list[tuple[str, bytes]]:
    return [(PROTOBUF, request(GOOD, span(attribute))), (JSON, json_request(text))]


def timed(time_ns: int) -> list[tuple[str, bytes]]:
    raw, text = time_ns.to_bytes(8, "little"), str(time_ns)
    ours = request(GOOD, span(start=b"\x39" + raw, end=b"\x41" + raw))
    return [(PROTOBUF, ours), (JSON, json_request(startTimeUnixNano=text, endTimeUnixNano=text))]


def protobuf(*attributes: bytes, **changes: bytes) -> list[tuple[str, bytes]]:
    return [(PROTOBUF, request(GOOD, span(*attributes, **changes)))]


def deep(shape: str, depth: int) -> list[tuple[str, bytes]]:
    value, text = nested(shape, depth)
    return both(key_value(b"d", value), text)


EVENT, LINK = message(11, message(2, b"e")), message(13, message(1, b"l" * 16) + message(2, b"m" * 8))
KEPT: dict[str, Callable[[], list[tuple[str, bytes]]]] = {
    **{f"{shape} {depth} deep": partial(deep, shape, depth) for shape in ("array", "map") for depth in DEPTHS},
    "a million attributes": lambda: protobuf(*(key_value(b"k%d" % n, b"\x10\x01") for n in range(1_000_000))),
    "a value of 10 MB": lambda: both(
        key_value(b"k", message(1, _LONG.encode())), _VALUE % f'{{"stringValue":"{_LONG}"}}'
    ),
    "a name of 1 MB": lambda: [(JSON, json_request(name="n" * 10**6)), *protobuf(name=message(5, b"n" * 10**6))],
    "10,000 events and links": lambda: protobuf(events=EVENT * 10_000, links=LINK * 10_000),
    "a million unknown keys": lambda: [(JSON, json_request(**{f"k{n}": n for n in range(1_000_000)}))],
    "brackets in an unknown field": lambda: [(JSON, json_request(new="%").replace(b'"%"', DEEP.encode()))],
    "a lone surrogate": lambda: [(JSON, json_request(_VALUE % '{"stringValue":"\\ud800"}', name="\ud800"))],
    "NUL": lambda: [
        (JSON, json_request(_VALUE % '{"stringValue":"\\u0000"}', name="\0")),
        *protobuf(name=b"\x2a\x01\0"),
    ],
    "invalid UTF-8": lambda: protobuf(key_value(b"\xff", message(1, b"\xff")), name=message(5, b"\xff")),
    "no name": lambda: [(JSON, json_request(name="")), *protobuf(name=b"")],
    "end before start": lambda: [
        (JSON, json_request(endTimeUnixNano="5")),
        *protobuf(end=b"\x41" + b"\x05" + bytes(7)),
    ],
    "128 attributes": lambda: protobuf(*(key_value(b"k%d" % n, message(1, b"v")) for n in range(128))),
    "keys twice": lambda: both(key_value(b"k", b"\x10\x01") * 2, f"{_VALUE % '{}'},{_VALUE % '{}'}"),
    "a link to nothing": lambda: [
        (JSON, json_request(links=[{"spanId": "1"}])),
        *protobuf(link=message(13, b"\x12\x011")),
    ],
    "1970": lambda: timed(1),
    "2262": lambda: timed(2**63 - 1),
}
REFUSED: dict[str, Callable[[], list[tuple[str, bytes]]]] = {
    "a trace id of zeros": lambda: [(JSON, json_request(traceId="0" * 32)), *protobuf(trace_id=message(1, bytes(16)))],
    "a span id of zeros": lambda: [(JSON, json_request(spanId="0" * 16)), *protobuf(span_id=message(2, bytes(8)))],
    "after 2262": lambda: timed(2**63),
    "brackets in the name": lambda: [(JSON, json_request(name="%").replace(b'"%"', DEEP.encode()))],
    "a time of 5,000 digits as text": lambda: [(JSON, json_request(startTimeUnixNano="9" * 5_000))],
}


def sent(server: Server, media: str, body: bytes) -> Iterator[tuple[str, int]]:
    """Sends a body that must be taken, protobuf over gRPC too; the trace that it made, and how many were refused."""
    for way in ("http", "grpc") if media == PROTOBUF else ("http",):
        trace_id = next(_numbers).to_bytes(16, "big")
        mine = body.replace(b"t" * 16, trace_id).replace((b"t" * 16).hex().encode(), trace_id.hex().encode())
        if way == "http":
            with server.client() as client:
                answer = client.post("/v1/traces", content=mine, headers={"Content-Type": media})
            assert answer.status_code == 200, answer.text
            said = answer.content
        else:
            options = [("grpc.max_send_message_length", -1)]
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=options) as channel:
                said = channel.unary_unary(TRACES)(mine, timeout=60, wait_for_ready=True)
        told = Parse(said, Response()) if media == JSON else Response.FromString(said)
        yield trace_id.hex(), told.partial_success.rejected_spans


PAGES = ["/", "/queues", "/retries", "/fixes", "/traces", "/ingest"]


@pytest.mark.parametrize("what", [*KEPT, *REFUSED])
def test_a_hostile_span_costs_at_most_itself(server: Server, what: str) -> None:
    alive, stored = processes(server), 2 if what in KEPT else 1
    bodies = (KEPT.get(what) or REFUSED[what])()
    for media, body in bodies:
        before = server.live_spans()
        for number, (trace_id, refused) in enumerate(sent(server, media, body), 1):
            assert refused == 2 - stored
            assert server.live_spans() == before + number * stored
            with server.client() as client:
                page = client.get(f"/trace/{trace_id}", params={"dataset": 0, "last": "all"})
                assert page.status_code == 200
                assert len(page.content) < 4 * 2**20
    with server.client() as client:
        for path in PAGES:
            assert client.get(path, params={"dataset": 0, "last": "all"}).status_code == 200
    assert processes(server) == alive
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("digits", ["9" * 5_000, "-" + "9" * 5_000])
def test_a_number_that_is_no_json_is_a_bad_request(server: Server, digits: str) -> None:
    body = json_request(kind="%").replace(b'"%"', digits.encode())
    with server.client() as client:
        answer = client.post("/v1/traces", content=body, headers={"Content-Type": JSON})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("not readable as JSON")
