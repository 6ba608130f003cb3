"""What ingest counts about itself."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from app.otlp.columns import Tally

_SERVICES_KEPT = 256


@dataclass(frozen=True)
class IngestStats:
    """A snapshot; counts are since the start of the process, durations over the last 1,000 commits or requests."""

    received_spans: int
    accepted_spans: int
    rejected_spans: int
    duplicate_spans: int
    batches: int
    commits: int
    refused_requests: int
    failed_requests: int
    queued_bytes: int
    queued_requests: int
    last_commit_ms: float
    commit_p50_ms: float
    commit_p99_ms: float
    wait_p50_ms: float
    """Waits are from the decoded batch to the end of its commit."""
    wait_p99_ms: float
    last_error: str
    """What the store said when it last failed, empty when the last commit succeeded."""
    last_error_ns: int
    """When that was."""
    last_received_ns: dict[str, int]
    """When each service's spans last came, the latest 256 services."""
    other_signal_requests: dict[str, int] = field(default_factory=dict)
    """Requests of "metrics" and "logs", which are answered and not kept."""
    other_signal_items: dict[str, int] = field(default_factory=dict)
    """The data points and log records in them."""


class Counters:
    """The numbers behind `IngestStats`; the caller holds a lock."""

    def __init__(self) -> None:
        self.received = self.accepted = self.rejected = self.duplicates = 0
        self.batches = self.commits = self.refused = self.failed = 0
        self.last_error = ""
        self.last_error_ns = 0
        self.commit_ms: deque[float] = deque(maxlen=1000)
        self.wait_ms: deque[float] = deque(maxlen=1000)
        self.seen: OrderedDict[str, int] = OrderedDict()

    def stored(self, tally: Tally, now_ns: int) -> None:
        """Counts one answered batch."""
        self.batches += 1
        self.received += tally.found
        self.accepted += tally.accepted
        self.rejected += tally.rejected_count
        self.duplicates += tally.duplicates
        for service in tally.senders:
            self.seen[service] = now_ns
            self.seen.move_to_end(service)
        while len(self.seen) > _SERVICES_KEPT:
            self.seen.popitem(last=False)

    def snapshot(self, queued_bytes: int, queued_requests: int) -> IngestStats:
        return IngestStats(
            self.received,
            self.accepted,
            self.rejected,
            self.duplicates,
            self.batches,
            self.commits,
            self.refused,
            self.failed,
            queued_bytes,
            queued_requests,
            self.commit_ms[-1] if self.commit_ms else 0.0,
            _rank(self.commit_ms, 0.50),
            _rank(self.commit_ms, 0.99),
            _rank(self.wait_ms, 0.50),
            _rank(self.wait_ms, 0.99),
            self.last_error,
            self.last_error_ns,
            dict(self.seen),
        )


def _rank(values: Iterable[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else 0.0
