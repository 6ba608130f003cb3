"""What senders do on the wire, byte by byte: chunks, pipelines, old versions, odd paths, and leaving early."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.server import Server, running_server

pytestmark = pytest.mark.slow

PROTOBUF, JSON = "application/x-protobuf", "application/json"
SIGNALS = ["traces", "metrics", "logs"]
_ids = iter(range(10**15, 10**16))


def body_of(spans: int, filler_bytes: int = 0) -> bytes:
    """New spans; the resource may be made larger."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    if filler_bytes:
        resource.resource.attributes.add(key="filler").value.string_value = "x" * filler_bytes
    scope = resource.scope_spans.add()
    for _ in range(spans):
        number, now_ns = next(_ids), time.time_ns()
        scope.spans.add(
            name="GET /",
            trace_id=number.to_bytes(16, "big"),
            span_id=number.to_bytes(8, "big"),
            start_time_unix_nano=now_ns,
            end_time_unix_nano=now_ns + 1,
        )
    return bytes(request.SerializeToString())


def head_of(*lines: str, version: str = "1.1", media: str = PROTOBUF) -> bytes:
    first = f"POST /v1/traces HTTP/{version}"
    return "\r\n".join((first, "Host: localhost", f"Content-Type: {media}", *lines, "", "")).encode()


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.http_port), timeout=20)


class Answers:
    """The responses that come over one socket, one after the other."""

    def __init__(self, raw: socket.socket) -> None:
        self._file = raw.makefile("rb")

    def head(self) -> tuple[int, dict[str, str]]:
        status = int(self._file.readline().split()[1])
        headers: dict[str, str] = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    def next(self) -> tuple[int, bytes]:
        status, headers = self.head()
        return status, self._file.read(int(headers["content-length"]))

    def at_end(self) -> bool:
        return self._file.read(1) == b""


def chunked(body: bytes, size: int, extension: str = "") -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(f"{len(piece):x}{extension}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize(("size", "extension"), [(1, ""), (7, ";name=value"), (100_000, "")])
def test_chunked_bodies_need_no_length(server: Server, size: int, extension: str) -> None:
    before = server.live_spans()
    with connected(server) as raw:
        answers = Answers(raw)
        for packed in (False, True):
            body = body_of(2)
            encoding = ("Content-Encoding: gzip",) if packed else ()
            data = chunked(gzip.compress(body) if packed else body, size, extension)
            raw.sendall(head_of("Transfer-Encoding: chunked", *encoding) + data)
            assert answers.next() == (200, b"")
    assert server.live_spans() == before + 4


def test_a_sender_that_asks_first_is_told_to_go_on(server: Server) -> None:
    before, body = server.live_spans(), body_of(3)
    with connected(server) as raw:
        answers = Answers(raw)
        raw.sendall(head_of(f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert answers.head()[0] == 100
        raw.sendall(body)
        assert answers.next() == (200, b"")
    assert server.live_spans() == before + 3


def test_a_sender_that_asks_first_for_too_much_is_spared_the_sending(server: Server) -> None:
    with connected(server) as raw:
        raw.sendall(head_of(f"Content-Length: {2**30}", "Expect: 100-continue"))
        assert Answers(raw).head()[0] == 413


def test_http_1_0_works_and_ends_the_connection(server: Server) -> None:
    before, body = server.live_spans(), body_of(3)
    with connected(server) as raw:
        raw.sendall(head_of(f"Content-Length: {len(body)}", version="1.0") + body)
        answers = Answers(raw)
        assert answers.next() == (200, b"")
        assert answers.at_end()
    assert server.live_spans() == before + 3


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    before = server.live_spans()
    good = [body_of(1) for _ in range(15)]
    # Every third is broken, and one asks for a page in between.
    requests: list[bytes] = []
    expected: list[int] = []
    for number, body in enumerate(good):
        requests.append(head_of(f"Content-Length: {len(body)}") + body)
        expected.append(200)
        if number % 3 == 0:
            requests.append(head_of("Content-Length: 7") + b"garbage")
            expected.append(400)
    requests.append(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with connected(server) as raw:
        raw.sendall(b"".join(requests))
        answers = Answers(raw)
        assert [answers.next()[0] for _ in expected] == expected
        assert answers.next() == (200, b'{"spanwise":"alive"}')
    assert server.live_spans() == before + 15


def test_a_thousand_requests_share_one_connection(server: Server) -> None:
    before = server.live_spans()
    with connected(server) as raw:
        answers = Answers(raw)
        for number in range(1000):
            # Commits take their time: one in ten is enough.
            body = body_of(1) if number % 10 == 0 else b""
            raw.sendall(head_of(f"Content-Length: {len(body)}") + body)
            assert answers.next() == (200, b"")
    assert server.live_spans() == before + 100


def asked(server: Server, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, str]:
    """The status of an answer, and where it would send the client to."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
        assert "content-encoding" not in response.headers
        assert method != "HEAD" or content == b""
        assert response.status < 400 or len(content) <= 8192 or response.headers["content-type"].startswith("text/html")
        return response.status, response.headers.get("location", "")
    finally:
        connection.close()


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "GET", "PATCH", "DELETE"])
def test_other_methods_are_405_and_name_the_right_one(server: Server, signal: str, method: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    for slash in ("", "/"):
        connection.request(method, f"/v1/{signal}{slash}")
        response = connection.getresponse()
        content = response.read()
        assert (response.status, response.headers["allow"]) == (405, "POST")
        assert response.headers["content-type"] == JSON
        assert method == "HEAD" or json.loads(content)["code"] == 12
    connection.close()


# The same path by the rules of URLs.
OTHER_SPELLINGS = ["/v1/{}?a=b", "/v1/{}/?a=b", "/v1/{}%2F", "http://localhost/v1/{}"]
ODD_PATHS = [
    *OTHER_SPELLINGS,
    "//v1/{}",
    "/v1//{}",
    "/v1/{}//",
    "/v1/{}/x",
    "/V1/{}",
    "/v1/./{}",
    "/v1/../v1/{}",
    "/v1/{}%20",
    "/v1/{};a=b",
    "/v1/v1/{}",
    "/prefix/v1/{}",
    "/v1/",
    "/v1",
    "/",
]


@pytest.mark.parametrize("path", ODD_PATHS)
def test_nothing_is_ever_redirected(server: Server, path: str) -> None:
    for signal in SIGNALS:
        for name in (signal, signal.upper(), signal.title()):
            for media, body in ((PROTOBUF, b""), (JSON, b"{}"), ("", b"")):
                for method in ("POST", "PUT", "HEAD", "OPTIONS"):
                    headers = {"Content-Type": media} if media else {}
                    status, location = asked(server, method, path.format(name), headers, body)
                    assert not 300 <= status < 400, (method, path, name, status)
                    assert not location
                    taken = bool(media) and method == "POST" and name == signal and path in OTHER_SPELLINGS
                    page = method == "HEAD" and path == "/"
                    assert status == 200 if taken or page else status >= 400


def test_answers_are_packed_for_no_one_who_did_not_ask(server: Server) -> None:
    for headers in ({}, {"Accept-Encoding": "identity"}, {"Accept-Encoding": "gzip;q=0"}):
        for body in (b"", b"garbage" * 1000):
            # The assertion is in there.
            asked(server, "POST", "/v1/traces", {"Content-Type": PROTOBUF, **headers}, body)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes large bodies."""
    with running_server(tmp_path_factory.mktemp("roomy")) as started:
        yield started


def test_the_answer_to_100_000_different_faults_is_small(roomy: Server) -> None:
    faults = ['{"traceId":"%x"}', '{"spanId":"%x"}', '{"kind":"%x"}', '{"name":%d}', '{"attributes":%d}', "%d"]
    spans = ",".join(faults[number % len(faults)] % number for number in range(100_000))
    services = ",".join(
        '{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"%s"}},{"keyStrindex":1}]}}'
        % (str(number) * 20)
        for number in range(1000)
    )
    scope = f'{{"scope":{{"name":"{"n" * 10_000}"}},"spans":[{spans}]}}'
    body = f'{{"resourceSpans":[{{"scopeSpans":[{scope}]}},{services}]}}'
    with roomy.client() as client:
        headers = {"Content-Type": JSON, "Content-Encoding": "gzip"}
        response = client.post("/v1/traces", content=gzip.compress(body.encode()), headers=headers)
        assert response.status_code == 200, response.text
        assert len(response.content) <= 8192
        partial = response.json()["partialSuccess"]
        assert partial["rejectedSpans"] == "100000"
        assert len(partial["errorMessage"].encode()) <= 1024


def test_a_refusal_does_not_repeat_what_was_sent(roomy: Server) -> None:
    long = "x" * 60_000
    with roomy.client() as client:
        for headers in ({"Content-Type": long}, {"Content-Type": JSON, "Content-Encoding": long}):
            response = client.post("/v1/traces", content=b"{}", headers=headers)
            assert response.status_code == 415
            assert len(response.content) <= 8192


def open_files(server: Server) -> int:
    return sum(1 for _ in Path(f"/proc/{server.process.pid}/fd").iterdir())


def test_a_sender_that_leaves_in_the_middle_stores_nothing_and_holds_nothing(tmp_path: Path) -> None:
    """The server may hold 16 KiB: if one of 500 left its 10 KiB or its turn behind, the last would be refused."""
    with running_server(tmp_path, SPANWISE_INGEST_QUEUE_BYTES="16KiB") as server:
        stored = [body_of(1, filler_bytes=10_000)]
        plain, packed = body_of(20, filler_bytes=10_000), gzip.compress(os.urandom(10_000))
        with connected(server) as raw:
            raw.sendall(head_of(f"Content-Length: {len(stored[0])}") + stored[0])
            assert Answers(raw).next() == (200, b"")
        files, generator = open_files(server), random.Random(7)
        for number in range(500):
            if number % 2:
                sent = head_of(f"Content-Length: {len(plain)}") + plain
            else:
                sent = head_of("Transfer-Encoding: chunked", "Content-Encoding: gzip") + chunked(packed, 1000)
            with connected(server) as raw:
                raw.sendall(sent[: generator.randrange(1, len(sent) - 1)])
                if number % 3 == 0:
                    # A reset instead of an orderly end.
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        deadline = time.monotonic() + 20
        while open_files(server) > files and time.monotonic() < deadline:
            time.sleep(0.05)
        assert open_files(server) <= files
        assert server.live_spans() == 1
        last = body_of(1, filler_bytes=15_000)
        with connected(server) as raw:
            raw.sendall(head_of(f"Content-Length: {len(last)}") + last)
            assert Answers(raw).next() == (200, b"")
        assert server.live_spans() == 2
        with server.client() as client:
            ingest = client.get("/api/ingest").json()["ingest"]
        assert (ingest["queued_bytes"], ingest["queued_requests"], ingest["oldest_wait_ns"]) == (0, 0, 0)
        assert "Traceback" not in server.log.read_text()


def test_a_sender_that_does_not_wait_for_the_answer_may_send_again(server: Server) -> None:
    before, bodies = server.live_spans(), [body_of(2) for _ in range(20)]
    for body in bodies:
        with connected(server) as raw:
            raw.sendall(head_of(f"Content-Length: {len(body)}") + body)
    with connected(server) as raw:
        answers = Answers(raw)
        for body in bodies:
            raw.sendall(head_of(f"Content-Length: {len(body)}") + body)
            status, answer = answers.next()
            assert status == 200
            assert not ExportTraceServiceResponse.FromString(answer).HasField("partial_success")
    time.sleep(0.5)
    assert server.live_spans() == before + 40
    assert "Traceback" not in server.log.read_text()
