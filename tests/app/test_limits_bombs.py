"""Bombs and floods against a real server: refused within bounded memory, while pages answer."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
import zstandard

from app.ingest.freed_memory import KEPT_BYTES
from tests.app.test_receivers_grpc import TRACES, body_of, call, failure
from tests.server import Server, running_server

pytestmark = pytest.mark.slow

MIB = 2**20
GIB_OF_ZEROS = 1024
PROTOBUF = "application/x-protobuf"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the default limits, but for time and connections."""
    folder = tmp_path_factory.mktemp("bombed")
    with running_server(folder, "--header-timeout-s", "1", "--max-connections", "64") as started:
        yield started


def processes(server: Server) -> list[int]:
    """The server and all that it started."""
    found = [server.process.pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


def peak_bytes(server: Server) -> int:
    """The most memory that each process ever held, together."""
    total = 0
    for process in processes(server):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    return total


@contextmanager
def pages_asked_for(server: Server) -> Iterator[None]:
    """Asks for a page again and again meanwhile; every one must be answered."""
    over, statuses, failures = threading.Event(), list[int](), list[Exception]()

    def ask() -> None:
        with server.client() as client:
            while not statuses or not over.wait(0.02):
                try:
                    statuses.append(client.get("/datasets").status_code)
                except httpx.HTTPError as error:
                    failures.append(error)
                    return

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        yield
    finally:
        over.set()
        asker.join()
    assert not failures
    assert statuses
    assert set(statuses) == {200}


def deflated(wbits: int) -> bytes:
    packer = zlib.compressobj(1, wbits=wbits)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(GIB_OF_ZEROS)) + packer.flush()


def zstd(sized: bool) -> bytes:
    packer = zstandard.ZstdCompressor().compressobj(size=GIB_OF_ZEROS * MIB if sized else -1)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(GIB_OF_ZEROS)) + packer.flush()


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "gzip": ("gzip", lambda: deflated(31)),
    "deflate": ("deflate", lambda: deflated(15)),
    "raw deflate": ("deflate", lambda: deflated(-15)),
    "zstd with its size": ("zstd", lambda: zstd(sized=True)),
    "zstd without": ("zstd", lambda: zstd(sized=False)),
    "gzip in members": ("gzip", lambda: gzip.compress(bytes(MIB)) * GIB_OF_ZEROS),
    "zstd in frames": ("zstd", lambda: zstandard.ZstdCompressor().compress(bytes(MIB)) * GIB_OF_ZEROS),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_gigabyte_of_zeros_is_refused_within_the_limit_of_one_body(server: Server, name: str) -> None:
    encoding, pack = BOMBS[name]
    bomb = pack()
    headers = {"Content-Type": PROTOBUF, "Content-Encoding": encoding}
    with server.client() as client, pages_asked_for(server):
        # What the first pages and a body of this size cost is no matter of the bomb.
        assert client.get("/datasets").status_code == 200
        assert (
            client.post("/v1/traces", content=bytes(len(bomb)), headers={"Content-Type": PROTOBUF}).status_code == 400
        )
        before = peak_bytes(server)
        for _ in range(3):
            assert client.post("/v1/traces", content=bomb, headers=headers).status_code == 413
        # One body of 64 MiB after decompression, the bomb as it was sent, what an allocator rounds up and keeps.
        assert peak_bytes(server) - before < (64 + 32) * MIB + KEPT_BYTES


def frame(descriptor: int, rest: bytes) -> bytes:
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + rest


LIES = {
    # A window of 2 TiB, then of 128 MiB; then a single segment that says it holds 2^60 bytes.
    "window": frame(0x00, b"\xf8" + b"\x01\x00\x00"),
    "large window": frame(0x00, b"\x88" + b"\x01\x00\x00"),
    "size": frame(0xE0, struct.pack("<Q", 2**60) + b"\x01\x00\x00"),
    "size of a large body": frame(0xE0, struct.pack("<Q", 2**30) + b"\x01\x00\x00"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_a_zstd_frame_claims_is_not_allocated(server: Server, lie: str) -> None:
    headers = {"Content-Type": PROTOBUF, "Content-Encoding": "zstd"}
    before = peak_bytes(server)
    with server.client() as client:
        for _ in range(10):
            assert client.post("/v1/traces", content=LIES[lie], headers=headers).status_code in (400, 413)
    assert peak_bytes(server) - before < 32 * MIB


def test_an_endless_body_is_refused_at_the_limit(server: Server) -> None:
    before = peak_bytes(server)
    with server.client() as client, pages_asked_for(server):
        endless = (bytes(MIB) for _ in range(1024))
        assert client.post("/v1/traces", content=endless, headers={"Content-Type": PROTOBUF}).status_code == 413
    assert peak_bytes(server) - before < (64 + 64) * MIB


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_bomb_over_grpc_is_refused_within_the_limit(server: Server, compression: grpc.Compression) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=options) as channel:
        call(channel, b"")
        before = peak_bytes(server)
        with pages_asked_for(server):
            for _ in range(8):
                error = failure(channel, bytes(300 * MIB), compression=compression)
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "google.rpc.retryinfo-bin" not in dict(error.trailing_metadata())
        # Allocators keep what each of gRPC's threads once had: three of them, measured over 20 bombs.
        assert peak_bytes(server) - before < (4 * 64 + 32) * MIB
        call(channel, body_of(1))


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


@pytest.mark.parametrize("sent", [b"", PREFACE[:10], PREFACE, PREFACE + SETTINGS])
def test_grpc_connections_that_do_not_get_on_are_let_go(server: Server, sent: bytes) -> None:
    with ExitStack() as stack:
        flood = []
        for _ in range(200):
            flood.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.grpc_port), timeout=20)))
            flood[-1].sendall(sent)
        with pages_asked_for(server), grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            assert call(channel, body_of(1)) == b""
        # The oldest is gone although it never closed.
        try:
            while flood[0].recv(4096):
                pass
        except ConnectionError:
            pass


def test_grpc_calls_whose_message_never_comes_are_ended(tmp_path: Path) -> None:
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(60)
        yield b""

    limits = ("--body-timeout-s", "0.5", "--max-connections", "16")
    with running_server(tmp_path, *limits) as server, ExitStack() as stack:
        stack.callback(over.set)
        calls = []
        for number in range(16):
            # Without an argument of its own each would share one connection.
            options = [("grpc.use_local_subchannel_pool", 1), ("test.number", number)]
            channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=options)
            stack.enter_context(channel)
            calls.append(channel.stream_unary(TRACES).future(nothing(), timeout=50, wait_for_ready=True))
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pages_asked_for(server):
            # No room is left until the connections have aged; exporters try again, and so does this.
            assert call(channel, body_of(1), timeout=40) == b""
        for one in calls:
            assert one.exception(50).code() is grpc.StatusCode.UNAVAILABLE
        over.set()


def test_busy_grpc_connections_age_without_losing_a_call(tmp_path: Path) -> None:
    with running_server(tmp_path, "--body-timeout-s", "0.2") as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            before = time.monotonic()
            count = 0
            while time.monotonic() < before + 4:
                call(channel, body_of(1))
                count += 1
        assert server.live_spans() == count > 20
