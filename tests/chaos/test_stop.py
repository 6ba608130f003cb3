"""SIGTERM under load: nothing acknowledged is lost, nobody hears of a success that was none, and it ends in time."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from app.store.base import LIVE
from app.store.duckdb import DuckStore
from tests.app.exporters import send_by_python
from tests.chaos.senders import ALL, EXPORT, Journal, deliver_rest, expect_whole, sending
from tests.server import Server, decoder_of, running_server

pytestmark = pytest.mark.slow

RETRYABLE = {"connection", "503", "UNAVAILABLE", "CANCELLED"}
"""What an exporter meets with when the server stops, and OTLP says of each that it sends the batch again.

gRPC itself cancels calls that arrive in the very moment in which it stops.
"""


@contextmanager
def stalled_upload(server: Server) -> Iterator[socket.socket]:
    """A request whose body never ends: it is under way for as long as the server lets it."""
    with socket.create_connection(("127.0.0.1", server.http_port)) as connection:
        head = "POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        connection.sendall(f"{head}Content-Type: application/x-protobuf\r\n\r\n".encode() + b"\x0a")
        connection.settimeout(20)
        # The server has to have it before it is asked to stop.
        time.sleep(0.3)
        yield connection


def test_a_stop_under_load_loses_nothing(tmp_path: Path) -> None:
    journal, data = Journal(), tmp_path / "spanwise.duckdb"
    for number in range(4):
        with running_server(tmp_path, ended_by_test=True) as server, sending(server, journal, number):
            before = len(journal.acknowledged)
            deadline = time.monotonic() + 30
            while len(journal.acknowledged) < before + 20 + 10 * number and time.monotonic() < deadline:
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 0
        assert "Traceback" not in server.log.read_text()
        assert len(journal.acknowledged) >= before + 20
        assert set(journal.refusals) <= RETRYABLE
        expect_whole(data, journal)
    with running_server(tmp_path) as server:
        deliver_rest(server, journal)
    assert expect_whole(data, journal) == set()


def test_what_comes_while_it_stops_is_refused_for_another_try(tmp_path: Path) -> None:
    """gRPC listens on while a request over HTTP is under way."""
    journal = Journal()
    with running_server(tmp_path, "--stop-grace-s", "60", ended_by_test=True) as server:
        with stalled_upload(server), grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            export = channel.unary_unary(EXPORT)
            assert export(journal.templates[30].body(1), timeout=20) == b""
            server.process.send_signal(signal.SIGTERM)
            deadline, refused = time.monotonic() + 20, ""
            while not refused:
                assert time.monotonic() < deadline
                try:
                    # A repeat, so that nothing changes where it is taken before the signal has come.
                    export(journal.templates[30].body(1), timeout=20)
                except grpc.RpcError as error:
                    refused = f"{error.code().name}: {error.details()}"
            assert refused.startswith("UNAVAILABLE: the server is not taking spans")
            assert server.process.poll() is None
        assert server.process.wait(30) == 0
    assert spans_held(tmp_path) == 30


def test_a_request_that_never_ends_does_not_keep_it(tmp_path: Path) -> None:
    with (
        running_server(tmp_path, "--stop-grace-s", "1", ended_by_test=True) as server,
        stalled_upload(server) as connection,
    ):
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert b"200" not in connection.recv(1000)[:20]
    assert spans_held(tmp_path) == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    journal = Journal()
    flags = ("--stop-grace-s", "3600", "--body-timeout-s", "3600")
    with running_server(tmp_path, *flags, ended_by_test=True) as server, stalled_upload(server):
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            assert channel.unary_unary(EXPORT)(journal.templates[512].body(1), timeout=20) == b""
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    assert spans_held(tmp_path) == 512


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found through Linux' /proc")
def test_a_second_signal_leaves_behind_what_is_being_decoded(tmp_path: Path) -> None:
    """Whoever waits for it hears that it was not stored, or nothing, but no success."""
    journal = Journal()
    with running_server(tmp_path, "--stop-grace-s", "3600", ended_by_test=True) as server:
        decoder = decoder_of(server)
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            export = channel.unary_unary(EXPORT)
            assert export(journal.templates[512].body(1), timeout=20) == b""
            os.kill(decoder, signal.SIGSTOP)
            try:
                waiting = export.future(journal.templates[512].body(2), timeout=60)
                with server.client() as client:
                    while not client.get("/api/ingest").json()["ingest"]["queued_requests"]:
                        time.sleep(0.01)
                server.process.send_signal(signal.SIGTERM)
                time.sleep(1)
                assert server.process.poll() is None
                server.process.send_signal(signal.SIGTERM)
                assert server.process.wait(6) == 0
                with pytest.raises(grpc.RpcError) as caught:
                    waiting.result()
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            finally:
                with suppress(ProcessLookupError):
                    os.kill(decoder, signal.SIGKILL)
    assert spans_held(tmp_path) == 512


@pytest.mark.parametrize("exporter", ["http/protobuf", "grpc"])
def test_exporters_deliver_to_the_server_that_comes_back(tmp_path: Path, exporter: str) -> None:
    """The official ones of Python, whose first try meets a server that is gone."""
    with running_server(tmp_path) as first:
        pass
    port = first.grpc_port if exporter == "grpc" else first.http_port
    gone = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        with socket.create_server(("127.0.0.1", port)) as listener:
            pool.submit(_break_off, listener, gone)
            sent = pool.submit(send_by_python, first, exporter, "shop", 900)
            assert gone.wait(60)
        with running_server(tmp_path, "--http-port", str(first.http_port), "--grpc-port", str(first.grpc_port)):
            logged = sent.result()
    assert "ERROR" not in logged
    assert spans_held(tmp_path) == 1800


def _break_off(listener: socket.socket, met: threading.Event) -> None:
    """Takes one connection and closes it, as a process does that ends."""
    connection, _ = listener.accept()
    connection.close()
    met.set()


def spans_held(folder: Path) -> int:
    store = DuckStore(str(folder / "spanwise.duckdb"))
    with store.read(LIVE, ALL, 10) as spans:
        [(count,)] = spans.rows("select count(*) from spans")
    store.close()
    return int(count)
