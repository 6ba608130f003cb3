"""Metrics and logs: checked and counted as traces are, and not kept yet."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from app.ingest.decoding import Body, Decoders, Media
from app.ingest.decompress import decompress
from app.ingest.errors import BadPayload, Overloaded
from app.otlp.errors import DecodeError
from app.otlp.other_signals import OtherSignal, item_count

_RETRY_AFTER_S = 2


class Held(Protocol):
    """A share of what ingest may hold, until it is released."""

    def release(self) -> None: ...


@dataclass
class Counted:
    """What came since the start of the process, by signal; items are data points and log records."""

    requests: dict[str, int] = field(default_factory=lambda: {"metrics": 0, "logs": 0})
    items: dict[str, int] = field(default_factory=lambda: {"metrics": 0, "logs": 0})


def checked(signal: OtherSignal, body: Body, limit_bytes: int) -> int:
    """The items in a body as it came in. Raises BadPayload, PayloadTooLarge, UnsupportedEncoding."""
    unpacked = decompress(body.data, body.encoding, limit_bytes)
    try:
        return item_count(signal, unpacked, body.media)
    except DecodeError as error:
        raise BadPayload(str(error)[:1000]) from error


class OtherSignals:
    """Takes requests of metrics and logs so that services which send all three signals hear no error.

    They are checked in a decoding process, because 64 MiB of JSON would hold the loop up for two seconds (protobuf:
    0.2), and one at a time, because what is kept comes first.
    """

    def __init__(self, decoders: Decoders, limit_bytes: int, hold: Callable[[int], Held]) -> None:
        self._decoders = decoders
        self._limit_bytes = limit_bytes
        self._hold = hold
        self._turn = asyncio.Semaphore(1)
        self._lock = threading.Lock()
        self._counted = Counted()

    async def submit(self, signal: OtherSignal, body: bytes, *, media: Media, encoding: str, timeout_s: float) -> None:
        """Returns once the body is known to be a request of that signal. Raises IngestError's kinds."""
        held = self._hold(len(body))
        try:
            async with asyncio.timeout(timeout_s), self._turn:
                job = partial(checked, signal, Body(body, media, encoding), self._limit_bytes)
                items = await self._decoders.run(job)
        except TimeoutError:
            raise Overloaded(f"not read within {timeout_s:g} s", _RETRY_AFTER_S) from None
        finally:
            held.release()
        with self._lock:
            self._counted.requests[signal] += 1
            self._counted.items[signal] += items

    def counted(self) -> Counted:
        """What was counted so far."""
        with self._lock:
            return Counted(dict(self._counted.requests), dict(self._counted.items))
