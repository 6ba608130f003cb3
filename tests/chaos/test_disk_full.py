"""A disk that is really full: senders are told to keep what they have, pages answer on, room ends it by itself.

Each test fills a small tmpfs of its own, which takes the right to mount one.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from app.store.base import LIVE, StoreBusy
from app.store.connection import default_limits
from app.store.duckdb import DuckStore
from tests.app.spans_made import ALL, numbered
from tests.chaos.senders import EXPORT, PROTOBUF, Journal, deliver_rest, expect_whole, sending
from tests.server import Server, running_server

pytestmark = pytest.mark.slow

MIB = 2**20
_WAIT_S = 60.0


@dataclass(frozen=True)
class Disk:
    """A file system of a few MiB, most of it taken by a file that can be removed."""

    folder: Path
    taken_bytes: int

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def take(self, leave_bytes: int = 0) -> None:
        """Takes the room that a test gives back later; with `leave_bytes`, all of the free room but so much."""
        free = os.statvfs(self.folder)
        size = free.f_bavail * free.f_frsize - leave_bytes if leave_bytes else self.taken_bytes
        with self._ballast.open("ab") as file:
            file.write(bytes(max(0, size)))

    def give_back(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "none", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        made = Disk(folder, 120 * MIB)
        made.take()
        yield made
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def until(condition: Callable[[], bool], otherwise: Callable[[], object]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)


def refusals(journal: Journal) -> int:
    """Answers that said "not now", over HTTP and gRPC."""
    return journal.refusals.get("503", 0) + journal.refusals.get("UNAVAILABLE", 0)


def expect_pages(server: Server) -> None:
    with server.client() as client:
        for path in ("/?last=all", "/queues?last=all", "/ingest", "/api/status", "/api/endpoints?last=all", "/healthz"):
            assert client.get(path).status_code == 200, path


def refused_over_http(server: Server, journal: Journal) -> str:
    """What a sender over HTTP is told; it must be told to try again."""
    with server.client() as client:
        answer = client.post("/v1/traces", content=journal.templates[8192].body(10**6), headers=PROTOBUF)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    return answer.text


def refused_over_grpc(server: Server, journal: Journal) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(EXPORT)(journal.templates[8192].body(10**6), timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return str(caught.value.details())


def expect_taken_again(server: Server, journal: Journal, seed: int) -> None:
    """Spans get in by themselves, over both protocols."""
    before = len(journal.acknowledged)
    with sending(server, journal, seed):
        until(
            lambda: len(journal.acknowledged) > before + 20, lambda: (journal.refusals, server.log.read_text()[-3000:])
        )
    with server.client() as client:
        until(lambda: client.get("/readyz").status_code == 200, lambda: client.get("/readyz").text)


def test_the_guard_refuses_before_the_disk_is_full(disk: Disk) -> None:
    journal = Journal()
    with running_server(disk.folder, "--min-free-bytes", "24MiB", "--checkpoint-bytes", "4MiB") as server:
        with sending(server, journal, 1):
            until(lambda: refusals(journal) > 20, lambda: journal.refusals)
        assert journal.acknowledged
        for told in (refused_over_http(server, journal), refused_over_grpc(server, journal)):
            assert "MiB of disk are free" in told
            assert "24 MiB are kept" in told
        expect_pages(server)
        with server.client() as client:
            assert client.get("/readyz").status_code == 503
            assert "MiB of disk are free" in client.get("/readyz").text
            upload = client.post("/api/upload?name=a", content=b"x" * 1000)
            assert upload.status_code == 507
            assert "stay so" in upload.text
        free = os.statvfs(disk.folder)
        # A log and the checkpoint that merges it may lie between the last look at the disk and the refusal.
        assert free.f_bavail * free.f_frsize > 12 * MIB
        disk.give_back()
        expect_taken_again(server, journal, 2)
        assert set(journal.refusals) == {"503", "UNAVAILABLE"}
        deliver_rest(server, journal)
        assert "No space left" not in server.log.read_text()
    assert expect_whole(disk.folder / "spanwise.duckdb", journal) == set()


@pytest.mark.parametrize("checkpoint_bytes", ["1MiB", "256MiB"], ids=["checkpoints meet it", "the log meets it"])
def test_a_full_disk_loses_nothing_and_ends_when_there_is_room(disk: Disk, checkpoint_bytes: str) -> None:
    journal = Journal()
    # Without the guard, as a disk is that others fill.
    flags = ("--min-free-bytes", "1KiB", "--checkpoint-bytes", checkpoint_bytes)
    with running_server(disk.folder, *flags) as server:
        for number in range(3):
            with sending(server, journal, number):
                until(lambda: refusals(journal) > 30, lambda: (journal.refusals, server.log.read_text()[-3000:]))
                disk.take(leave_bytes=4096)
                before = refusals(journal)
                until(lambda before=before: refusals(journal) > before + 30, lambda: journal.refusals)  # type: ignore[misc]
            for told in (refused_over_http(server, journal), refused_over_grpc(server, journal)):
                assert re.search("No space left|MiB of disk are free", told), told
            expect_pages(server)
            disk.give_back()
            expect_taken_again(server, journal, 10 + number)
            assert set(journal.refusals) <= {"503", "UNAVAILABLE"}
            journal.refusals.clear()
            # Room for a part of the next round only.
            disk.take(leave_bytes=12 * MIB)
        disk.give_back()
        deliver_rest(server, journal)
        log = server.log.read_text()
    assert expect_whole(disk.folder / "spanwise.duckdb", journal) == set()
    assert "Traceback" not in log
    print(f"opened again {log.count('opened again')} times; {len(journal.acknowledged)} batches")


def test_every_commit_on_a_full_disk_is_stored_or_refused(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    """The store alone, many times at the edge: what `append` returned for is there, what it raised for is not."""
    limits = replace(default_limits(), min_free_bytes=0, checkpoint_bytes=2**18, threads=1)
    store = DuckStore(str(disk.folder / "a.duckdb"), limits)
    held, refused, first = set[int](), 0, 1
    for number in range(120):
        if number % 12 == 0:
            disk.take(leave_bytes=64 * 2**10 + number * 2**13)
        try:
            assert store.append(LIVE, [numbered(first, 200)]).inserted == 200
            held.add(first)
        except StoreBusy:
            refused += 1
        first += 200
        if number % 12 == 11:
            disk.give_back()
            until(lambda: _reads(store), lambda: "the store does not come back")
            with store.read(LIVE, ALL, 10) as spans:
                rows = spans.rows(
                    "select (span_id - 1) // 200, count(*), count(distinct span_id) from spans group by all"
                )
            assert {int(group) * 200 + 1: tuple(counts) for group, *counts in rows} == dict.fromkeys(held, (200, 200))
    assert refused
    assert len(held) > 10
    assert "COMMIT succeeded and is durable, but the autocheckpoint failed" in caplog.text
    store.close()
    store = DuckStore(str(disk.folder / "a.duckdb"), limits)
    assert store.datasets()[0].span_count == 200 * len(held)
    assert store.damage().set_aside == ()
    store.close()


def _reads(store: DuckStore) -> bool:
    try:
        store.datasets()
    except StoreBusy:
        return False
    return True


def test_readiness_follows_the_disk(disk: Disk) -> None:
    with running_server(disk.folder, "--min-free-bytes", "24MiB") as server, server.client() as client:
        assert client.get("/readyz").status_code == 200
        disk.take(leave_bytes=10 * MIB)
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "free" in answer.json()["error"]
        disk.give_back()
        assert client.get("/readyz").status_code == 200
