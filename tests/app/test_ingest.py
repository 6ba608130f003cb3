"""Bodies become durable spans or an error that says whether sending again helps; nothing is held beyond the bounds."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.grace import Grace
from app.ingest.decoding import Decoders
from app.ingest.errors import BadPayload, IngestError, Overloaded, PayloadTooLarge, UnsupportedEncoding
from app.ingest.ingest import Ingest, IngestLimits
from app.otlp.columns import Batch, Tally
from app.store import open_store
from app.store.base import LIVE, Appended, StoreBusy, StoreError
from tests.app.spans_made import ALL, START_NS


def document(first: int, count: int, service: str = "shop") -> bytes:
    """An OTLP JSON request with numbered spans."""
    spans = [
        {
            "traceId": f"{1:032x}",
            "spanId": f"{number:016x}",
            "name": "GET /",
            "startTimeUnixNano": str(START_NS + number),
            "endTimeUnixNano": str(START_NS + number + 1000),
        }
        for number in range(first, first + count)
    ]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}).encode()


class Appends:
    """A store that takes notes, and may wait or fail."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.failure: Callable[[Sequence[Batch]], Exception | None] = lambda _: None

    def append(self, dataset_id: int, batches: Sequence[Batch]) -> Appended:
        assert dataset_id == LIVE
        self.go_on.wait(20)
        error = self.failure(batches)
        if error:
            raise error
        self.groups.append(len(batches))
        return Appended(sum(batch.span_count for batch in batches), 0, (0,) * len(batches))


def sending(ingest: Ingest, body: bytes) -> asyncio.Task[Tally]:
    """The body on its way."""
    return asyncio.create_task(ingest.submit(body, media="json", timeout_s=20))


@asynccontextmanager
async def running(store: Any, **limits: int) -> AsyncIterator[Ingest]:
    ingest = Ingest(store, IngestLimits(**({"decoders": 1} | limits)))
    await ingest.start()
    try:
        yield ingest
    finally:
        if isinstance(store, Appends):
            store.go_on.set()
        await ingest.stop(Grace(5))


def test_a_body_is_stored_when_submit_returns_and_repeats_are_counted() -> None:
    async def scenario() -> None:
        store = open_store(":memory:")
        async with running(store) as ingest:
            first = await ingest.submit(document(1, 10), media="json", timeout_s=20)
            assert (first.found, first.accepted, first.duplicates) == (10, 10, 0)
            again = await ingest.submit(gzip.compress(document(6, 10)), media="json", encoding="gzip", timeout_s=20)
            assert (again.found, again.accepted, again.duplicates) == (10, 5, 5)
            broken = await ingest.submit(document(0, 3), media="json", timeout_s=20)
            assert (broken.found, broken.accepted, broken.duplicates, broken.rejected_count) == (3, 0, 2, 1)
            empty = await ingest.submit(b"", media="protobuf", timeout_s=20)
            assert empty.found == 0
            with store.read(LIVE, ALL, 5) as spans:
                assert spans.rows("select count(*) from spans") == [(15,)]
            stats = ingest.stats()
        assert (stats.received_spans, stats.accepted_spans, stats.duplicate_spans) == (23, 15, 7)
        assert (stats.rejected_spans, stats.batches, stats.queued_bytes, stats.queued_requests) == (1, 4, 0, 0)
        assert ([each.service for each in stats.services], stats.last_error) == (["shop"], "")
        assert 0 < stats.commit.p50_ns <= stats.commit.p99_ns
        assert stats.wait.p99_ns >= stats.wait.p50_ns > 0
        assert (stats.commit.count, stats.wait.count, stats.answer.count) == (3, 3, 4)
        store.close()

    asyncio.run(scenario())


def test_bad_bodies_say_what_is_wrong() -> None:
    async def scenario() -> None:
        async with running(Appends(), body_bytes=5_000) as ingest:
            with pytest.raises(BadPayload, match="JSON"):
                await ingest.submit(b"{", media="json", timeout_s=20)
            with pytest.raises(BadPayload, match="is JSON, not protobuf"):
                await ingest.submit(document(1, 1), media="protobuf", timeout_s=20)
            with pytest.raises(UnsupportedEncoding):
                await ingest.submit(b"", media="json", encoding="br", timeout_s=20)
            with pytest.raises(PayloadTooLarge):
                await ingest.submit(gzip.compress(bytes(10_000)), media="json", encoding="gzip", timeout_s=20)
            assert ingest.stats().queued_requests == 0

    asyncio.run(scenario())


def test_what_waits_is_stored_in_one_group() -> None:
    async def scenario() -> None:
        store = Appends()
        async with running(store) as ingest:
            store.go_on.clear()
            sent = [sending(ingest, document(n, 5)) for n in range(1, 21)]
            while ingest.stats().queued_requests < 20 or ingest._decoding:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            store.go_on.set()
            tallies = await asyncio.gather(*sent)
        assert [tally.accepted for tally in tallies] == [5] * 20
        assert sum(store.groups) == 20
        assert len(store.groups) < 10

    asyncio.run(scenario())


def test_a_full_queue_refuses_at_once() -> None:
    async def scenario() -> None:
        for limits in ({"held_requests": 3}, {"held_bytes": 3 * len(document(1, 5))}):
            store = Appends()
            async with running(store, **limits) as ingest:
                store.go_on.clear()
                sent = [sending(ingest, document(1, 5)) for _ in range(3)]
                await asyncio.sleep(0)
                began = time.monotonic()
                with pytest.raises(Overloaded, match="full") as caught:
                    await ingest.submit(document(1, 5), media="json", timeout_s=20)
                assert caught.value.retry_after_s == 2
                assert time.monotonic() - began < 0.5
                store.go_on.set()
                await asyncio.gather(*sent)
                assert (await ingest.submit(document(1, 5), media="json", timeout_s=20)).accepted == 5
                stats = ingest.stats()
            assert (stats.refused_requests, stats.queued_bytes, stats.queued_requests) == (1, 0, 0)

    asyncio.run(scenario())


def test_a_deadline_ends_the_wait_and_gives_its_room_back_after_the_commit() -> None:
    async def scenario() -> None:
        store = Appends()
        async with running(store) as ingest:
            store.go_on.clear()
            with pytest.raises(Overloaded, match=r"not stored within 0\.3 s"):
                await ingest.submit(document(1, 5), media="json", timeout_s=0.3)
            assert ingest.stats().queued_requests == 1
            store.go_on.set()
            assert (await ingest.submit(document(1, 5), media="json", timeout_s=20)).accepted == 5
            assert ingest.stats().queued_bytes == 0

    asyncio.run(scenario())


def test_one_bad_batch_does_not_fail_its_neighbours() -> None:
    async def scenario() -> None:
        store = Appends()
        store.failure = lambda batches: (
            StoreError("cannot store bad") if any("bad" in batch.tally.senders for batch in batches) else None
        )
        async with running(store) as ingest:
            store.go_on.clear()
            names = ["good", "bad", "good", "good"]
            sent = [sending(ingest, document(1, 5, name)) for name in names]
            await asyncio.sleep(0.3)
            store.go_on.set()
            answers = await asyncio.gather(*sent, return_exceptions=True)
            assert [getattr(answer, "accepted", str(answer)) for answer in answers] == [5, "cannot store bad", 5, 5]
            assert type(answers[1]) is IngestError

            store.failure = lambda _: StoreBusy("no room")
            with pytest.raises(Overloaded, match="no room"):
                await ingest.submit(document(1, 5), media="json", timeout_s=20)
            assert ingest.stats().last_error == "no room"
            store.failure = lambda _: ZeroDivisionError("a bug")
            with pytest.raises(IngestError, match="ZeroDivisionError: a bug"):
                await ingest.submit(document(1, 5), media="json", timeout_s=20)
            store.failure = lambda _: None
            assert (await ingest.submit(document(1, 5), media="json", timeout_s=20)).accepted == 5
            assert (ingest.stats().last_error, ingest.stats().queued_requests) == ("", 0)

    asyncio.run(scenario())


def test_stopping_commits_what_was_taken_and_takes_no_more() -> None:
    async def scenario() -> None:
        store = Appends()
        ingest = Ingest(store, IngestLimits(decoders=1))  # type: ignore[arg-type]
        with pytest.raises(Overloaded, match="starting"):
            await ingest.submit(document(1, 5), media="json", timeout_s=20)
        await ingest.start()
        sent = [sending(ingest, document(n, 5)) for n in range(1, 6)]
        await asyncio.sleep(0)
        await ingest.stop(Grace(10))
        assert [tally.accepted for tally in await asyncio.gather(*sent)] == [5] * 5
        with pytest.raises(Overloaded, match="stopping"):
            await ingest.submit(document(1, 5), media="json", timeout_s=20)
        await ingest.stop(Grace(1))

    asyncio.run(scenario())


def test_a_killed_decoder_is_replaced_and_its_body_decoded() -> None:
    async def scenario() -> None:
        decoders = Decoders(1, 2**20)
        await decoders.start()
        assert decoders._pool is not None
        [process] = decoders._pool._processes.values()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        batches = await asyncio.gather(*(decoders.decode(document(1, 5), "json", "") for _ in range(3)))
        assert [batch.span_count for batch in batches] == [5] * 3
        await asyncio.to_thread(decoders.stop)

    asyncio.run(scenario())


_KILLED_SERVER = """
import asyncio, os, signal
from app.ingest.decoding import Decoders
async def main():
    decoders = Decoders(2, 1000)
    await decoders.start()
    print(*decoders._pool._processes, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.slow
def test_decoders_end_with_a_killed_server(tmp_path: Path) -> None:
    script, root = tmp_path / "server.py", Path(__file__).parents[2]
    script.write_text(_KILLED_SERVER)
    environment = os.environ | {"PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    for pid in killed.stdout.split():
        while not gone(Path("/proc") / pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert gone(Path("/proc") / pid)


def gone(process: Path) -> bool:
    """Whether a process has ended, waited for by its parent or not."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
