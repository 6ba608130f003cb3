"""Clients that are slow, silent or endless are let go, and nobody waits for them."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from app import serving, slow_clients
from app.grace import Grace
from app.settings import settings_from
from app.sockets import bound_sockets
from tests.server import ROOT, Server, running_server

pytestmark = pytest.mark.slow

MOST = 64
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with short deadlines that takes few connections."""
    with running_server(
        tmp_path_factory.mktemp("impatient"),
        *("--header-timeout-s", "1", "--body-timeout-s", "1.5", "--max-connections", str(MOST)),
    ) as started:
        yield started


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def rest_of(client: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    answer = b""
    while piece := client.recv(65536):
        answer += piece
    return answer


def answer_to(port: int, sent: bytes) -> bytes:
    with connected(port) as client:
        client.sendall(sent)
        return rest_of(client)


def post(encoding: str, more: str = "", path: str = "/v1/traces") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{encoding}\r\n{more}\r\n"
    ).encode()


CHUNKED = "Transfer-Encoding: chunked"


def export_body() -> bytes:
    """A request of one new span."""
    number, now_ns = next(_numbers), time.time_ns()
    span = {
        "traceId": f"{number:032x}",
        "spanId": f"{number:016x}",
        "name": "GET /",
        "startTimeUnixNano": str(now_ns),
        "endTimeUnixNano": str(now_ns + 1),
    }
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()


def assert_others_are_answered(server: Server) -> None:
    """A page and an export on connections of their own."""
    before = server.live_spans()
    with server.client() as client:
        assert client.get("/datasets").status_code == 200
        headers = {"Content-Type": "application/json"}
        assert client.post("/v1/traces", content=export_body(), headers=headers).status_code == 200
    assert server.live_spans() == before + 1


@pytest.mark.parametrize("sent", [b"G", b"GET / HT", b"GET / HTTP/1.1\r\nHost: loc", GET[:-2], b"\r\n"])
def test_half_a_head_ends_with_408(impatient: Server, sent: bytes) -> None:
    with connected(impatient.http_port) as client:
        client.sendall(sent)
        assert_others_are_answered(impatient)
        assert rest_of(client).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_drips_ends_with_408(impatient: Server) -> None:
    with connected(impatient.http_port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        with pytest.raises(OSError, match=r"Broken pipe|reset"):  # noqa: PT012 - whichever byte it is
            for _ in range(200):
                client.sendall(b"a")
                time.sleep(0.05)
            raise AssertionError("a head may drip for ever")
        assert client.recv(20).startswith(b"HTTP/1.1 408 ")


def test_a_second_head_has_the_same_time(impatient: Server) -> None:
    with connected(impatient.http_port) as client:
        client.sendall(GET)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.sendall(GET[:20])
        assert b"HTTP/1.1 408 " in rest_of(client)


def test_silence_is_let_go_without_a_word(impatient: Server) -> None:
    assert answer_to(impatient.http_port, b"") == b""


def test_heads_in_pieces_and_several_in_one_piece_are_answered(impatient: Server) -> None:
    with connected(impatient.http_port) as client:
        for byte in GET:
            client.sendall(bytes([byte]))
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        client.sendall(GET + GET + last)
        assert rest_of(client).count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize("length", ["Content-Length: 1000", CHUNKED])
def test_half_a_body_ends_with_408(impatient: Server, length: str) -> None:
    with connected(impatient.http_port) as client:
        client.sendall(post(length) + b"5\r\n{")
        assert_others_are_answered(impatient)
        assert rest_of(client).startswith(b"HTTP/1.1 408 ")


def trickled(port: int, first: bytes, piece: bytes) -> bytes:
    """What is answered to a sender that never ends."""
    with connected(port) as client:
        client.sendall(first)
        client.settimeout(0.05)
        answer = b""
        for _ in range(200):
            try:
                client.sendall(piece)
                received = client.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return answer
            if not received:
                return answer
            answer += received
        raise AssertionError("it may go on for ever")


@pytest.mark.parametrize(
    ("path", "answer"),
    # The second is answered before the body is there: what is left of it must end all the same.
    [("/v1/traces", b"HTTP/1.1 408 "), ("/nowhere", b"HTTP/1.1 404 ")],
)
@pytest.mark.parametrize("piece", [b"abcdefgh", b";a=b"])
def test_an_endless_chunk_extension_is_let_go(impatient: Server, path: str, answer: bytes, piece: bytes) -> None:
    assert trickled(impatient.http_port, post(CHUNKED, path=path) + b"1;x", piece).startswith(answer)


def test_endless_trailers_are_refused(impatient: Server) -> None:
    first = post(CHUNKED) + b"2\r\n{}\r\n0\r\n"
    assert trickled(impatient.http_port, first, b"X-More: " + b"x" * 4000 + b"\r\n").startswith(b"HTTP/1.1 431 ")
    assert_others_are_answered(impatient)


HEADS: list[bytes] = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\r\n" * 10_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 900) for n in range(100))
    + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    # None of these ends.
    b"GET /" + b"a" * 1_000_000,
    b"GET / HTTP/1.1\r\n" + b"x" * 1_000_000,
    b"GET / HTTP/1.1\r\nX: " + b" " * 1_000_000,
    b"GET / HTTP/1.1\r\nX: " + b"y" * 1_000_000,
]


@pytest.mark.parametrize("head", HEADS)
def test_heads_beyond_the_limit_end_with_431(impatient: Server, head: bytes) -> None:
    with connected(impatient.http_port) as client:
        client.sendall(head)
        assert client.recv(65536).startswith(b"HTTP/1.1 431 ")
    assert_others_are_answered(impatient)


def test_a_large_head_within_the_limit_is_taken(impatient: Server) -> None:
    fields = "".join(f"Cookie-{number}: {'c' * 4000}\r\n" for number in range(15))
    body = export_body()
    whole = post(f"Content-Length: {len(body) + 200_000}", fields) + body + b" " * 200_000
    with connected(impatient.http_port) as client:
        for _ in range(3):
            # The end of a large body must not count as the beginning of the next head.
            for piece in (whole + whole[:1000], whole[1000:]):
                client.sendall(piece)
                answer = b""
                while not answer.endswith(b"{}"):
                    answer += client.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "head", [b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\0" * 99]
)
def test_what_is_no_http_ends_with_400(impatient: Server, head: bytes) -> None:
    assert answer_to(impatient.http_port, head).startswith(b"HTTP/1.1 400 ")


def test_trailers_are_no_headers(impatient: Server) -> None:
    body = export_body()
    chunk = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    whole = post(CHUNKED, "Connection: close\r\n") + chunk
    assert answer_to(impatient.http_port, whole + b"Content-Encoding: gzip\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    foreign = whole.replace(b"Host: localhost\r\n", b"")
    assert answer_to(impatient.http_port, foreign + b"Host: localhost\r\n\r\n").startswith(b"HTTP/1.1 421 ")


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HT", GET, post("Content-Length: 1000") + b"{", post("Content-Length: 9", path="/nowhere")],
    ids=["silent", "half a head", "kept", "half a body", "answered before its body"],
)
def test_a_thousand_idle_connections_stall_nobody(impatient: Server, sent: bytes) -> None:
    with ExitStack() as stack:
        flood = [stack.enter_context(connected(impatient.http_port)) for _ in range(2)]
        for number in range(1000):
            flood.append(stack.enter_context(connected(impatient.http_port)))
            if sent:
                flood[-1].sendall(sent)
            if number % 250 == 249:
                assert_others_are_answered(impatient)
        assert_others_are_answered(impatient)
    assert open_files(impatient) < MOST + 200


def open_files(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@asynccontextmanager
async def serving_app(app: ASGIApp, **settings: str) -> AsyncIterator[int]:
    """The server's own server around another application, in this process."""
    sockets = bound_sockets(("127.0.0.1",), 0)
    chosen = settings_from({"HOME": "/h"}, {"max_connections": "16", "header_timeout_s": "0.5", **settings})
    server = serving._Server(app, chosen, Grace(1), lambda: None)
    task = asyncio.create_task(server.serve(sockets=sockets))
    try:
        yield sockets[0].getsockname()[1]
    finally:
        server.end()
        server.end()
        async with asyncio.timeout(20):
            await task


async def answer(send: Send, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def test_where_all_are_busy_pages_are_answered_and_senders_come_again() -> None:
    async def scenario() -> None:
        release, all_wait = asyncio.Event(), asyncio.Barrier(17)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/wait":
                await all_wait.wait()
                await release.wait()
            await answer(send, b"done")

        async with serving_app(app) as port, httpx.AsyncClient(base_url=f"http://localhost:{port}") as client:
            async with asyncio.timeout(20):
                busy = [asyncio.create_task(client.post("/wait", timeout=20)) for _ in range(16)]
                await all_wait.wait()
                assert (await client.get("/page")).text == "done"
                refused = await client.post("/v1/traces", headers={"Content-Type": "application/json"})
                assert (refused.status_code, refused.headers["retry-after"], refused.json()["code"]) == (503, "1", 14)
                release.set()
                assert [each.text for each in await asyncio.gather(*busy)] == ["done"] * 16
                assert (await client.post("/v1/traces")).text == "done"

    asyncio.run(scenario())


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side lets go."""
    got = b""
    async with asyncio.timeout(20):
        try:
            while piece := await reader.read(65536):
                got += piece
        except ConnectionError:
            pass
    return got


def test_a_client_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "_UNREAD_S", 0.3)

    async def scenario() -> None:
        gone = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(100):
                await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
            gone.set()

        async with serving_app(app) as port:
            with connected(port) as client:
                client.sendall(GET)
                async with asyncio.timeout(20):
                    await gone.wait()

    asyncio.run(scenario())


def test_kept_connections_end_when_nothing_more_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_KEEP_ALIVE_S", 1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"done")

    async def scenario() -> None:
        async with serving_app(app) as port:
            for body in (b"", b"{}"):
                # The second is answered before its body has come, and uvicorn forgets the time then.
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(post("Content-Length: 2"))
                await reader.readuntil(b"done")
                writer.write(body)
                assert await ended(reader) == b""
                writer.close()

    asyncio.run(scenario())


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from app.slow_clients import room_for
print(room_for({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "expected"),
    [
        (300, 500, 1000, "122 500"),
        (300, 5000, 1000, "1000 2256"),
        (3000, 5000, 1000, "1000 3000"),
        (90, 90, 50, "8 90"),
    ],
)
def test_the_limit_on_open_files_is_raised_or_kept_to(soft: int, hard: int, wanted: int, expected: str) -> None:
    program = LIMITED.format(soft=soft, hard=hard, wanted=wanted)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.strip() == expected
    assert bool(ran.stderr) == (expected.split()[0] != str(wanted))
    if ran.stderr:
        assert f"room for {expected.split()[0]} connections" in ran.stderr
