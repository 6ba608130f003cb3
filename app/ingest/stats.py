"""What ingest counts about itself."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from app.ingest.errors import Reason
from app.ingest.refusals import RETRIED, Refusals, RefusedRequests, RejectedSpans, shortened
from app.measuring.durations import Durations, DurationSummary
from app.measuring.recent import CountSeries, RecentCounts
from app.otlp.columns import Batch, Tally

WINDOW_S = 600
STEP_S = 10
RECENT = ("received", "accepted", "duplicates", "rejected", "stored", "partial", "refused", "failed")
"""Spans received, accepted, duplicate, rejected; requests stored (partly or whole), stored in part, refused, failed."""
_SERVICES_KEPT = 256


@dataclass(frozen=True)
class ServiceSeen:
    """A service that sent spans since the start."""

    service: str
    spans: int
    last_ns: int


@dataclass(frozen=True)
class IngestStats:
    """A snapshot; counts are since the start of the process, durations and `recent` of the last ten minutes."""

    started_ns: int
    received_spans: int
    accepted_spans: int
    rejected_spans: int
    duplicate_spans: int
    batches: int
    partial_batches: int
    """Batches of which some spans were rejected."""
    commits: int
    refused_requests: int
    """Requests that were asked to come again; nothing of them was stored, or nothing that they know of."""
    failed_requests: int
    """Requests that could not be read, and those that the store or Spanwise failed on."""
    queued_bytes: int
    queued_requests: int
    oldest_wait_ns: int
    """Age of the oldest request that has no answer yet, 0 where there is none."""
    answer: DurationSummary
    """From a body that is complete to its stored spans."""
    wait: DurationSummary
    """From the decoded batch to the end of its commit."""
    commit: DurationSummary
    recent: CountSeries
    refusals: tuple[RefusedRequests, ...]
    rejections: tuple[RejectedSpans, ...]
    services: tuple[ServiceSeen, ...]
    """The latest 256 services, the last one first."""
    last_error: str
    """What the store said when it last failed, empty when the last commit succeeded."""
    last_error_ns: int
    """When that was."""
    other_signal_requests: dict[str, int] = field(default_factory=dict)
    """Requests of "metrics" and "logs", which are answered and not kept."""
    other_signal_items: dict[str, int] = field(default_factory=dict)
    """The data points and log records in them."""


def spans_by_service(batch: Batch) -> dict[str, int]:
    """How many spans each sender of the batch has in it; those whose spans were all refused have none."""
    senders = batch.tally.senders
    if len(senders) <= 1:
        return dict.fromkeys(senders, batch.span_count)
    counts = np.bincount(batch.spans["shape"].to_numpy())
    shapes = np.flatnonzero(counts)
    found = dict.fromkeys(senders, 0)
    for service, spans in zip(batch.shapes["service"].take(shapes).to_pylist(), counts[shapes].tolist(), strict=True):
        found[service] = found.get(service, 0) + spans
    return found


class Counters:
    """The numbers behind `IngestStats`; the caller holds a lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.started_ns = time.time_ns()
        self.received = self.accepted = self.rejected = self.duplicates = 0
        self.batches = self.partial = self.commits = self.refused = self.failed = 0
        self.last_error = ""
        self.last_error_ns = 0
        self.answer, self.wait, self.commit = (Durations(WINDOW_S, clock) for _ in range(3))
        self._clock = clock
        self._recent = RecentCounts(RECENT, WINDOW_S, clock)
        self._refusals = Refusals()
        self._services: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._arrivals: dict[int, float] = {}
        self._arrived = 0

    def arrived(self) -> int:
        """Notes a request; `left` wants the number."""
        self._arrived += 1
        self._arrivals[self._arrived] = self._clock()
        return self._arrived

    def left(self, number: int, stored: bool) -> None:
        """The request has its answer, or nobody waits for one any more."""
        seconds = self._clock() - self._arrivals.pop(number)
        if stored:
            self.answer.add(round(seconds * 1e9))

    def stored(self, tally: Tally, now_ns: int, spans_by_service: Mapping[str, int]) -> None:
        """Counts one answered batch."""
        rejected = tally.rejected_count
        partial = bool(tally.rejected or tally.unreadable)
        self.batches += 1
        self.partial += partial
        self.received += tally.found
        self.accepted += tally.accepted
        self.rejected += rejected
        self.duplicates += tally.duplicates
        self._recent.add(
            received=tally.found,
            accepted=tally.accepted,
            duplicates=tally.duplicates,
            rejected=rejected,
            stored=1,
            partial=partial,
        )
        if partial:
            self._refusals.spans(tally, now_ns)
        for name, spans in spans_by_service.items():
            service = shortened(name)
            self._services[service] = (self._services.get(service, (0, 0))[0] + spans, now_ns)
            self._services.move_to_end(service)
        while len(self._services) > _SERVICES_KEPT:
            self._services.popitem(last=False)

    def not_stored(self, reason: Reason, services: Iterable[str], message: str, now_ns: int) -> None:
        """Counts one request of which nothing was stored."""
        if reason in RETRIED:
            self.refused += 1
            self._recent.add(refused=1)
        else:
            self.failed += 1
            self._recent.add(failed=1)
        self._refusals.request(reason, services, message, now_ns)

    def snapshot(self, queued_bytes: int, queued_requests: int) -> IngestStats:
        oldest = next(iter(self._arrivals.values()), None)
        return IngestStats(
            started_ns=self.started_ns,
            received_spans=self.received,
            accepted_spans=self.accepted,
            rejected_spans=self.rejected,
            duplicate_spans=self.duplicates,
            batches=self.batches,
            partial_batches=self.partial,
            commits=self.commits,
            refused_requests=self.refused,
            failed_requests=self.failed,
            queued_bytes=queued_bytes,
            queued_requests=queued_requests,
            oldest_wait_ns=0 if oldest is None else round((self._clock() - oldest) * 1e9),
            answer=self.answer.summary(),
            wait=self.wait.summary(),
            commit=self.commit.summary(),
            recent=self._recent.series(STEP_S, time.time_ns()),
            refusals=self._refusals.refused_requests(),
            rejections=self._refusals.rejected_spans(),
            services=tuple(ServiceSeen(name, *seen) for name, seen in reversed(self._services.items())),
            last_error=self.last_error,
            last_error_ns=self.last_error_ns,
        )
