"""The way of a request body to durable spans: decoded in a pool, stored by one writer in groups, then answered.

Promises: `submit` returns only after the commit; what is held in memory is bounded in bytes and requests; when there
is no room the sender hears so at once; no wait is without a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from app.grace import Grace
from app.ingest.decoding import Decoders, Media
from app.ingest.errors import IngestError, Overloaded, Reason
from app.ingest.glimpse import service_glimpsed
from app.ingest.other_signals import OtherSignals
from app.ingest.recent_peak import RecentPeak
from app.ingest.stats import Counters, IngestStats, spans_by_service
from app.otlp.columns import Batch, Tally
from app.store.base import LIVE, Store, StoreBusy, StoreError

RETRY_AFTER_S = 2
"""Well below the 10 s after which the Python exporter gives a batch up: a longer pause would make it drop the data."""

_GROUP_SPANS = 20_000
_GROUP_BYTES = 8 * 2**20
_COMPANY_WAIT_S = 0.01
_COMPANY_SPANS = 2_048
"""A commit of as many spans as this costs less by itself than the time in which it would wait for more."""


@dataclass(frozen=True)
class IngestLimits:
    """What ingest may hold and use."""

    body_bytes: int = 64 * 2**20
    """Of one body, before and after decompression."""
    held_bytes: int = 256 * 2**20
    held_requests: int = 2_000
    decoders: int = 2


@dataclass(eq=False)
class _Waiting:
    batch: Batch
    future: asyncio.Future[Tally]
    loop: asyncio.AbstractEventLoop
    held_bytes: int
    since: float


class Ingest:
    """Takes request bodies and stores their spans in the live dataset."""

    def __init__(self, store: Store, limits: IngestLimits | None = None) -> None:
        self._store = store
        self._limits = limits or IngestLimits()
        self._at_once = RecentPeak()
        self._decoders = Decoders(self._limits.decoders, self._limits.body_bytes, self._at_once.value)
        # Half of the room at most: what is not kept gives way to what is.
        self.other_signals = OtherSignals(self._decoders, self._limits.body_bytes, lambda size: _Held(self, size, 2))
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._held_bytes = 0
        self._held_requests = 0
        self._decoding = 0
        self._counters = Counters()
        self._taking = False
        self._ending = False
        self._writer = threading.Thread(target=self._write, name="spanwise-writer", daemon=True)

    async def start(self) -> None:
        """Starts the decoding processes and the writer."""
        await self._decoders.start()
        self._writer.start()
        self._taking = True

    def take_no_more(self) -> None:
        """From now on every request is refused, to be sent again; those under way go on."""
        self._taking = False

    async def stop(self, grace: Grace) -> None:
        """Takes nothing more, commits what is on its way while the grace lasts, refuses the rest, ends; idempotent."""
        self.take_no_more()
        while self._held_requests and grace.left_s():  # noqa: ASYNC110 - counted in threads
            await asyncio.sleep(0.01)
        with self._changed:
            self._ending = True
            rest = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        if rest:
            self._fail(rest, Overloaded("the server is stopping", RETRY_AFTER_S, Reason.NOT_TAKING))
        if self._writer.is_alive():
            await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._decoders.stop)

    async def submit(self, body: bytes, *, media: Media, encoding: str = "identity", timeout_s: float) -> Tally:
        """Stores the spans of one request body; returns after COMMIT. Raises IngestError's kinds.

        When the deadline passes the answer is Overloaded; spans may be stored all the same, and a repeat is recognised.
        """
        with self._counted(body, encoding) as sent:
            held = _Held(self, len(body))
            try:
                async with asyncio.timeout(timeout_s):
                    batch = sent.named(await self._decoded(body, media, encoding))
                    if not batch.span_count:
                        with self._changed:
                            self._counters.stored(batch.tally, time.time_ns(), spans_by_service(batch))
                        return batch.tally
                    return await self._queued(batch, held)
            except TimeoutError:
                raise Overloaded(f"not stored within {timeout_s:g} s", RETRY_AFTER_S, Reason.DEADLINE) from None
            finally:
                held.release()

    def stats(self) -> IngestStats:
        """What was counted so far."""
        with self._changed:
            stats = self._counters.snapshot(self._held_bytes, self._held_requests)
        others = self.other_signals.counted()
        return replace(stats, other_signal_requests=others.requests, other_signal_items=others.items)

    def not_stored(self, reason: Reason, message: str, services: Sequence[str] = ()) -> None:
        """Counts a request that was refused; those that `submit` refuses are counted already."""
        with self._changed:
            self._counters.not_stored(reason, services, message, time.time_ns())

    @property
    def limits(self) -> IngestLimits:
        return self._limits

    @contextlib.contextmanager
    def _counted(self, body: bytes, encoding: str) -> Iterator[_Sent]:
        """Counts how long one request waits for its answer, and why it was not stored if so."""
        sent, stored = _Sent(body, encoding), False
        with self._changed:
            number = self._counters.arrived()
        try:
            yield sent
            stored = True
        except asyncio.CancelledError:
            self.not_stored(Reason.SENDER_LEFT, "the sender left before the answer", sent.services)
            raise
        except Exception as error:
            reason = error.reason if isinstance(error, IngestError) else Reason.FAILED
            self.not_stored(reason, str(error), sent.services)
            raise
        finally:
            with self._changed:
                self._counters.left(number, stored)

    async def _decoded(self, body: bytes, media: Media, encoding: str) -> Batch:
        with self._changed:
            self._decoding += 1
        try:
            return await self._decoders.decode(body, media, encoding)
        finally:
            with self._changed:
                self._decoding -= 1
                self._changed.notify_all()

    def _queued(self, batch: Batch, held: _Held) -> asyncio.Future[Tally]:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(batch, loop.create_future(), loop, held.handed_over(batch.nbytes), time.monotonic())
        with self._changed:
            if self._ending:
                self._forget(waiting.held_bytes)
                raise Overloaded("the server is stopping", RETRY_AFTER_S, Reason.NOT_TAKING)
            self._queue.append(waiting)
            self._changed.notify_all()
        return waiting.future

    def _hold(self, size: int, part: int) -> None:
        """Takes room for one request where one part of all the room, say the half for 2, is not full yet."""
        with self._changed:
            if not self._taking:
                message = "the server is not taking spans: it is starting or stopping"
                raise Overloaded(message, RETRY_AFTER_S, Reason.NOT_TAKING)
            requests, held = self._held_requests, self._held_bytes
            # A single body always fits: the limit on one body is another one.
            full = requests >= self._limits.held_requests // part
            if full or (requests and held + size > self._limits.held_bytes // part):
                raise Overloaded("the queue is full", RETRY_AFTER_S)
            self._held_requests += 1
            self._held_bytes += size
            self._at_once.note(self._held_requests)

    def _forget(self, size: int) -> None:
        """Gives back what one request held; the lock is held."""
        self._held_requests -= 1
        self._held_bytes -= size

    def _write(self) -> None:
        while group := self._next_group():
            self._store_group(group)

    def _next_group(self) -> list[_Waiting]:
        """The next batches for one commit; empty when all is written and ingest ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ending)
            # Company is worth waiting for only while some is on its way: a commit is an fsync of about 4 ms.
            self._changed.wait_for(
                lambda: self._ending or not self._decoding or self._enough(), timeout=_COMPANY_WAIT_S
            )
            group: list[_Waiting] = []
            spans = size = 0
            while self._queue and (not group or (spans < _GROUP_SPANS and size < _GROUP_BYTES)):
                waiting = self._queue.popleft()
                group.append(waiting)
                spans += waiting.batch.span_count
                size += waiting.held_bytes
            return group

    def _enough(self) -> bool:
        return (
            sum(waiting.batch.span_count for waiting in self._queue) >= _COMPANY_SPANS
            or sum(waiting.held_bytes for waiting in self._queue) >= _GROUP_BYTES
        )

    def _store_group(self, group: Sequence[_Waiting]) -> None:
        began = time.monotonic()
        try:
            appended = self._store.append(LIVE, [waiting.batch for waiting in group])
        except StoreBusy as error:
            self._fail(group, Overloaded(str(error), RETRY_AFTER_S, Reason.NO_ROOM))
        except StoreError as error:
            if len(group) > 1:
                # One batch may have spoilt the transaction of all.
                for waiting in group:
                    self._store_group([waiting])
            else:
                self._fail(group, IngestError(str(error), Reason.STORE_FAILED))
        except Exception as error:  # noqa: BLE001 - the writer must outlive any fault, and every sender be answered
            failed = f"storing failed: {type(error).__name__}: {error}"
            self._fail(group, IngestError(failed, Reason.STORE_FAILED))
        else:
            now = time.monotonic()
            services = [spans_by_service(waiting.batch) for waiting in group]
            with self._changed:
                self._counters.commits += 1
                self._counters.last_error = ""
                self._counters.commit.add(round((now - began) * 1e9))
                for waiting, repeated, by_service in zip(group, appended.duplicates_by_batch, services, strict=True):
                    tally = replace(
                        waiting.batch.tally,
                        accepted=waiting.batch.tally.accepted - repeated,
                        duplicates=waiting.batch.tally.duplicates + repeated,
                    )
                    self._counters.wait.add(round((now - waiting.since) * 1e9))
                    self._counters.stored(tally, time.time_ns(), by_service)
                    self._forget(waiting.held_bytes)
                    _answer(waiting, tally)

    def _fail(self, group: Sequence[_Waiting], error: IngestError) -> None:
        with self._changed:
            self._counters.last_error = str(error)
            self._counters.last_error_ns = time.time_ns()
            for waiting in group:
                self._forget(waiting.held_bytes)
                _answer(waiting, error)


class _Sent:
    """One request on its way, and whose it is as soon as that is known."""

    def __init__(self, body: bytes, encoding: str) -> None:
        self._body = body
        self._encoding = encoding
        self._senders: tuple[str, ...] = ()

    @property
    def services(self) -> tuple[str, ...]:
        return self._senders or service_glimpsed(self._body, self._encoding)

    def named(self, batch: Batch) -> Batch:
        """The batch, with its sender where every one of its spans was refused."""
        self._senders = batch.tally.senders
        if not self._senders and (batch.tally.rejected or batch.tally.unreadable):
            return replace(batch, tally=replace(batch.tally, senders=self.services))
        return batch


class _Held:
    """What one request holds of the bounds, until it is handed to the writer or given back."""

    def __init__(self, ingest: Ingest, size: int, part: int = 1) -> None:
        ingest._hold(size, part)
        self._ingest = ingest
        self._size = size
        self._mine = True

    def handed_over(self, size: int) -> int:
        """The writer gives back from now on; the decoded batch counts instead of the body."""
        with self._ingest._changed:
            self._ingest._held_bytes += size - self._size
            self._mine = False
        return size

    def release(self) -> None:
        if self._mine:
            self._mine = False
            with self._ingest._changed:
                self._ingest._forget(self._size)


def _answer(waiting: _Waiting, outcome: Tally | IngestError) -> None:
    def resolve() -> None:
        if waiting.future.done():
            return
        if isinstance(outcome, IngestError):
            waiting.future.set_exception(outcome)
        else:
            waiting.future.set_result(outcome)

    # The loop of a sender that left may be closed already.
    with contextlib.suppress(RuntimeError):
        waiting.loop.call_soon_threadsafe(resolve)
