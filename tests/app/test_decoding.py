"""Bodies that wait are decoded in one job, and each has an outcome of its own."""

from __future__ import annotations

import asyncio
import gzip
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.ingest import decoding
from app.ingest.decoding import Body, Decoders, decode_group
from app.ingest.errors import BadPayload, PayloadTooLarge, UnsupportedEncoding
from app.otlp.columns import Batch, BatchGroup
from tests.app.test_columnar import message, request, span

GOOD = request(span(), span(name=message(5, b"other"), event=message(11, message(2, b"e"))))


def threaded(monkeypatch: pytest.MonkeyPatch, threads: int = 1, at_once: int = 1) -> Decoders:
    """Decoders whose jobs see what a test changes: in threads."""
    monkeypatch.setattr(Decoders, "_new_pool", lambda _: ThreadPoolExecutor(threads))
    return Decoders(threads, 10_000, lambda: at_once)


def test_what_waits_goes_into_one_job_and_every_body_has_its_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(bodies: list[Body], limit_bytes: int) -> object:
        sizes.append(len(bodies))
        return decode_group(bodies, limit_bytes)

    monkeypatch.setattr(decoding, "decode_group", counted)

    async def scenario() -> None:
        decoders = threaded(monkeypatch)
        await decoders.start()
        bodies = [
            (GOOD, "protobuf", ""),
            (b"\xff", "protobuf", ""),
            (gzip.compress(GOOD), "protobuf", "gzip"),
            (gzip.compress(bytes(20_000)), "protobuf", "gzip"),
            (GOOD, "protobuf", "br"),
            (b"{}", "json", ""),
            (GOOD, "protobuf", ""),
        ]
        sent = [asyncio.create_task(decoders.decode(*body)) for body in bodies]  # type: ignore[arg-type]
        left = asyncio.create_task(decoders.decode(GOOD, "protobuf", ""))
        await asyncio.sleep(0)
        left.cancel()
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        kinds = [type(one) for one in outcomes]
        assert kinds == [Batch, BadPayload, Batch, PayloadTooLarge, UnsupportedEncoding, Batch, Batch]
        batches = [one for one in outcomes if isinstance(one, Batch)]
        assert [(one.span_count, one.events.num_rows, one.tally.accepted) for one in batches] == [
            (2, 1, 2),
            (2, 1, 2),
            (0, 0, 0),
            (2, 1, 2),
        ]
        await asyncio.to_thread(decoders.stop)

    asyncio.run(scenario())
    # The first starts at once; the rest waited for it, and JSON goes by itself.
    assert sizes == [1, 1, 4, 1, 1]


def test_bodies_behind_a_very_large_one_wait_for_the_next_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_GROUP_UNPACKED_BYTES", 10)
    errors, parts = decode_group([Body(GOOD, "protobuf", "")] * 3, 10_000)
    assert (errors, BatchGroup.from_ipc(parts).spans) == ([None], (2,))

    async def scenario() -> None:
        decoders = threaded(monkeypatch)
        await decoders.start()
        batches = await asyncio.gather(*(decoders.decode(GOOD, "protobuf", "") for _ in range(5)))
        assert [batch.span_count for batch in batches] == [2] * 5
        await asyncio.to_thread(decoders.stop)

    asyncio.run(scenario())


def test_a_job_that_fails_answers_every_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        decoders = threaded(monkeypatch)
        await decoders.start()
        monkeypatch.setattr(decoding, "decode_group", None)
        outcomes = await asyncio.gather(
            *(decoders.decode(GOOD, "protobuf", "") for _ in range(3)), return_exceptions=True
        )
        assert ["decoding failed: TypeError" in str(one) for one in outcomes] == [True] * 3
        await asyncio.to_thread(decoders.stop)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("at_once", "company_bytes", "jobs"),
    [(1, 10**9, [1, 1, 3]), (4, 10**9, [1, 2, 2]), (9, 10**9, [1, 4]), (9, 1, [1, 1, 3])],
)
def test_half_of_what_is_under_way_or_much_or_what_waited_long_is_worth_another_process(
    monkeypatch: pytest.MonkeyPatch, at_once: int, company_bytes: int, jobs: list[int]
) -> None:
    sizes: list[int] = []
    held, waiting = threading.Event(), threading.Event()

    def slow_at_first(bodies: list[Body], limit_bytes: int) -> object:
        sizes.append(len(bodies))
        if bodies[0].encoding == "gzip":
            held.set()
            assert waiting.wait(10)
        return decode_group(bodies, limit_bytes)

    monkeypatch.setattr(decoding, "_COMPANY_BYTES", company_bytes)

    async def scenario() -> None:
        decoders = threaded(monkeypatch, 2, at_once)
        await decoders.start()
        monkeypatch.setattr(decoding, "decode_group", slow_at_first)
        slow = asyncio.create_task(decoders.decode(gzip.compress(GOOD), "protobuf", "gzip"))
        assert await asyncio.to_thread(held.wait, 10)
        others = await asyncio.gather(*(decoders.decode(GOOD, "protobuf", "") for _ in range(4)))
        assert [one.span_count for one in others] == [2] * 4
        assert not slow.done()
        waiting.set()
        assert (await slow).span_count == 2
        decoders.stop()

    asyncio.run(scenario())
    assert sizes == jobs
