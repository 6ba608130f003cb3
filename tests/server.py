"""A real `spanwise` process on free ports, for tests that talk to it as senders and browsers do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
_START_S = 60.0


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    http_port: int
    grpc_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=30.0, follow_redirects=False)

    def live_spans(self) -> int:
        with self.client() as client:
            return int(client.get("/api/status").json()["live_spans"])


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child without settings of the caller's own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SPANWISE_", "OTEL_"))}
    return {**own, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(extra or {})}


@contextmanager
def running_server(
    folder: Path, *arguments: str, command: str = "serve", ended_by_test: bool = False, **variables: str
) -> Iterator[Server]:
    """Starts `spanwise` with its data in the folder; stops it by SIGTERM and expects exit code 0.

    A server that ended before that has failed, unless the test says that it ends it itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    flags = ["--http-port", "0", "--grpc-port", "0", "--data", str(folder / "spanwise.duckdb"), *arguments]
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", command, *flags],
            cwd=folder,
            env=environment({"SPANWISE_DECODE_PROCESSES": "1", **variables}),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            http_port, grpc_port = _ports(process, log)
            yield Server(process, http_port, grpc_port, log)
        finally:
            early = process.poll()
            if early is None:
                process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                if process.stdout:
                    process.stdout.close()
    if not ended_by_test:
        assert early is None, f"the server ended in the middle with code {early}:\n{log.read_text()}"
        assert code == 0, log.read_text()


def decoder_of(server: Server) -> int:
    """The one decoding process."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    for other in Path(f"/proc/{server.process.pid}/task").iterdir():
        children += (other / "children").read_text().split()
    [found] = {int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}
    return found


def _ports(process: subprocess.Popen[str], log: Path) -> tuple[int, int]:
    assert process.stdout is not None
    began = time.monotonic()
    line = process.stdout.readline()
    if not line:
        process.wait(10)
        raise AssertionError(f"the server did not start:\n{log.read_text()}")
    http = re.search(r":(\d+)/$", line.strip())
    grpc = re.search(r"over gRPC on \S+:(\d+);", log.read_text())
    assert http is not None, line
    assert grpc is not None, log.read_text()
    assert time.monotonic() - began < _START_S
    return int(http[1]), int(grpc[1])
