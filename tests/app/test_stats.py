"""What ingest counts: every request once, by reason and sender, in bounded memory."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.ingest.errors import IngestError, Overloaded, Reason
from app.ingest.ingest import Ingest
from app.ingest.refusals import OTHER_REASONS, RETRIED, Refusals
from app.ingest.stats import Counters, spans_by_service
from app.otlp.columns import Rejection, Tally
from app.otlp.records import BatchBuilder, SpanRecord
from app.pages.ingest import REASONS
from app.store.base import StoreBusy, StoreError
from tests.app.measuring.test_durations import Clock
from tests.app.test_ingest import Appends, document, running, sending


def partial(reason: str, count: int, *senders: str) -> Tally:
    return Tally(found=count, rejected=(Rejection(reason, count, f"first of {reason}"),), senders=senders)


def test_every_reason_is_explained_and_has_its_place() -> None:
    assert set(REASONS) == set(Reason)
    assert RETRIED.issubset(Reason)
    assert Overloaded("full", 2).reason in RETRIED
    assert IngestError("bug").reason is Reason.FAILED
    assert all(cause.reason not in RETRIED for cause in (kind("x") for kind in IngestError.__subclasses__()[:3]))


def test_rejected_spans_keep_their_first_place_and_their_latest_senders() -> None:
    refusals = Refusals()
    refusals.spans(partial("no start time", 3, "a", "b"), 10)
    refusals.spans(partial("no start time", 4, "c"), 20)
    refusals.spans(partial("trace id is missing", 9, *(f"s{number}" for number in range(32))), 30)
    most, other = refusals.rejected_spans()
    assert (most.reason, most.count, len(most.services)) == ("trace id is missing", 9, 5)
    assert (other.count, other.first, other.last_ns) == (7, "first of no start time", 20)
    assert other.services == ("c", "b", "a")


def test_reasons_and_names_are_bounded() -> None:
    refusals = Refusals()
    for number in range(1_000):
        refusals.spans(partial(f"reason {number} " + "y" * 5_000, 1, "z" * 5_000), number)
        refusals.request(Reason.BAD_PAYLOAD, [f"{number}" * 2_000], "m" * 5_000, number)
    rows = refusals.rejected_spans()
    assert (len(rows), sum(row.count for row in rows)) == (33, 1_000)
    assert rows[0].reason == OTHER_REASONS
    [refused] = refusals.refused_requests()
    assert (refused.count, len(refused.services), len(refused.message)) == (1_000, 5, 300)
    assert max(len(text) for row in rows for text in (row.reason, row.first, *row.services)) <= 300


def test_services_are_the_latest_256_with_their_spans() -> None:
    counters = Counters(Clock())
    for number in range(300):
        counters.stored(Tally(found=2, accepted=2), number, {f"s{number}": 2})
    counters.stored(Tally(found=5, accepted=5), 999, {"s299": 5})
    services = counters.snapshot(0, 0).services
    assert (len(services), services[0].service, services[0].spans, services[0].last_ns) == (256, "s299", 7, 999)
    assert services[-1].service == "s44"


def test_requests_that_wait_show_their_age() -> None:
    clock = Clock()
    counters = Counters(clock)
    first = counters.arrived()
    clock.now_s += 1.5
    second = counters.arrived()
    clock.now_s += 1
    assert counters.snapshot(0, 0).oldest_wait_ns == 2_500_000_000
    counters.left(first, stored=True)
    assert counters.snapshot(0, 0).oldest_wait_ns == 1_000_000_000
    counters.left(second, stored=False)
    stats = counters.snapshot(0, 0)
    assert (stats.oldest_wait_ns, stats.answer.count, stats.answer.max_ns) == (0, 1, 2_500_000_000)


def test_spans_are_counted_for_each_sender_of_a_batch() -> None:
    builder = BatchBuilder()
    scope = builder.scope("")
    for number, service in enumerate(["a", "b", "a", "c", "a"], 1):
        resource = builder.resource({"service.name": service})
        builder.add(SpanRecord(number.to_bytes(16, "big"), number, "GET /", 2, 1_000, 2_000), resource, scope)
    assert spans_by_service(builder.finish()) == {"a": 3, "b": 1, "c": 1}


def counts(ingest: Ingest) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {each.reason: (each.count, each.services) for each in ingest.stats().refusals}


def test_each_refused_request_is_counted_once_with_its_sender() -> None:
    async def refused(ingest: Ingest, body: bytes, encoding: str = "", timeout_s: float = 20) -> None:
        with pytest.raises(IngestError):
            await ingest.submit(body, media="json", encoding=encoding, timeout_s=timeout_s)

    async def scenario() -> None:
        store = Appends()
        async with running(store, held_requests=2, body_bytes=5_000) as ingest:
            await refused(ingest, b"{")
            await refused(ingest, document(1, 1, "brotli"), encoding="br")
            await refused(ingest, document(1, 100, "large"))
            store.failure = lambda _: StoreBusy("no room")
            await refused(ingest, document(1, 5, "roomless"))
            store.failure = lambda _: StoreError("broken")
            await refused(ingest, document(1, 5, "unlucky"))
            store.failure = lambda _: None
            store.go_on.clear()
            held = sending(ingest, document(1, 5, "first"))
            left = sending(ingest, document(1, 5, "second"))
            await asyncio.sleep(0.3)
            assert ingest.stats().oldest_wait_ns > 200_000_000
            await refused(ingest, document(1, 5, "third"))
            left.cancel()
            store.go_on.set()
            await asyncio.gather(held, left, return_exceptions=True)
            store.go_on.clear()
            await refused(ingest, document(1, 5, "slow"), timeout_s=0.3)
            store.go_on.set()
            stats = ingest.stats()
            assert counts(ingest) == {
                "bad_payload": (1, ()),
                "unsupported_encoding": (1, ()),
                "too_large": (1, ("large",)),
                "no_room": (1, ("roomless",)),
                "store_failed": (1, ("unlucky",)),
                "queue_full": (1, ("third",)),
                "sender_left": (1, ("second",)),
                "deadline": (1, ("slow",)),
            }
            assert (stats.refused_requests, stats.failed_requests) == (3, 5)
            assert (stats.recent.total("refused"), stats.recent.total("failed")) == (3, 5)
            assert stats.answer.count == 1
        await refused(ingest, document(1, 5, "late"))
        assert counts(ingest)["starting_or_stopping"] == (1, ("late",))

    asyncio.run(scenario())


def test_a_batch_of_which_nothing_is_left_names_its_sender() -> None:
    async def scenario() -> None:
        async with running(Appends()) as ingest:
            await ingest.submit(document(0, 1, "careless"), media="json", timeout_s=20)
            stats = ingest.stats()
        assert (stats.partial_batches, stats.rejected_spans, stats.received_spans) == (1, 1, 1)
        [rejected] = stats.rejections
        assert (rejected.reason, rejected.services) == ("span id is missing or all zero", ("careless",))
        [service] = stats.services
        assert (service.service, service.spans) == ("careless", 0)
        assert time.time_ns() - service.last_ns < 60 * 10**9

    asyncio.run(scenario())
