"""What was not stored and why: whole requests by reason, spans of requests that were stored, and who sent them.

Promises: bounded by the number of reasons kept, and no address of a sender is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from app.ingest.errors import Reason
from app.otlp.columns import Tally

RETRIED = frozenset({Reason.QUEUE_FULL, Reason.ARRIVING, Reason.NOT_TAKING, Reason.DEADLINE, Reason.NO_ROOM})
"""Reasons whose senders were asked to send again; the others hear that it would not help."""

OTHER_REASONS = "other reasons"
_REASONS_KEPT = 32
_SERVICES_KEPT = 5
_NAME_CHARACTERS = 120
_TEXT_CHARACTERS = 300


@dataclass(frozen=True)
class RefusedRequests:
    """Requests of which nothing was stored, for one reason, since the start."""

    reason: str
    asked_to_retry: bool
    count: int
    last_ns: int
    services: tuple[str, ...]
    """Who sent them, the latest first and at most five; empty where the requests do not say it."""
    message: str
    """What the last of the senders was told."""


@dataclass(frozen=True)
class RejectedSpans:
    """Spans that were refused while the rest of their batch was stored, for one reason, since the start."""

    reason: str
    count: int
    first: str
    """Where the first one stood in its request."""
    last_ns: int
    services: tuple[str, ...]
    """Who sent the batches, the latest first and at most five."""


def shortened(text: str, characters: int = _NAME_CHARACTERS) -> str:
    """The text, cut where it is longer: names are the senders' own and may be of any length."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


class _Kept:
    """One reason's count, and who was the last."""

    def __init__(self, text: str = "") -> None:
        self.count = self.last_ns = 0
        self.text = text
        self._services: OrderedDict[str, None] = OrderedDict()

    def add(self, count: int, services: Iterable[str], now_ns: int) -> None:
        self.count += count
        self.last_ns = now_ns
        for service in services:
            self._services[shortened(service)] = None
            self._services.move_to_end(shortened(service))
        while len(self._services) > _SERVICES_KEPT:
            self._services.popitem(last=False)

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(reversed(self._services))


class Refusals:
    """Requests and spans that were not stored; the caller holds a lock."""

    def __init__(self) -> None:
        self._requests: dict[Reason, _Kept] = {}
        self._spans: dict[str, _Kept] = {}

    def request(self, reason: Reason, services: Iterable[str], message: str, now_ns: int) -> None:
        kept = self._requests.setdefault(reason, _Kept())
        kept.add(1, services, now_ns)
        kept.text = shortened(message, _TEXT_CHARACTERS)

    def spans(self, tally: Tally, now_ns: int) -> None:
        """Counts the refused spans of one answered batch."""
        for rejection in (*tally.rejected, *tally.unreadable):
            reason = shortened(rejection.reason, _TEXT_CHARACTERS)
            # Reasons may quote the input: the first 32 are told apart, the rest is counted together.
            if reason not in self._spans and len(self._spans) >= _REASONS_KEPT:
                reason = OTHER_REASONS
            kept = self._spans.setdefault(reason, _Kept(shortened(rejection.first, _TEXT_CHARACTERS)))
            kept.add(rejection.count, tally.senders[:_SERVICES_KEPT], now_ns)

    def refused_requests(self) -> tuple[RefusedRequests, ...]:
        """By count, the largest first."""
        rows = [
            RefusedRequests(reason.value, reason in RETRIED, kept.count, kept.last_ns, kept.services, kept.text)
            for reason, kept in self._requests.items()
        ]
        return tuple(sorted(rows, key=lambda row: (-row.count, row.reason)))

    def rejected_spans(self) -> tuple[RejectedSpans, ...]:
        """By count, the largest first."""
        rows = [
            RejectedSpans(reason, kept.count, kept.text, kept.last_ns, kept.services)
            for reason, kept in self._spans.items()
        ]
        return tuple(sorted(rows, key=lambda row: (-row.count, row.reason)))
