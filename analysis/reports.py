"""What analyses answer: frozen dataclasses that pages, the API and commands show. Durations are nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.density_step import DensityStep
from analysis.quantiles import Quantile


@dataclass(frozen=True)
class TailSampling:
    """Traces that seem to be sampled by how long they took."""

    service: str
    """With the endpoint where it shows: that of the row, or one that calls it."""
    endpoint: str
    step: DensityStep


@dataclass(frozen=True)
class EndpointRow:
    """One endpoint's requests in the window."""

    service: str
    endpoint: str
    count: int
    """Of those that were kept, like `errors`."""
    errors: int
    adjusted_count: float
    """How many requests they stand for, of which so many failed: more than `count` where a sampler said so."""
    adjusted_errors: float
    rate_per_s: float
    """Of all that they stand for, like `total_ns`."""
    total_ns: int
    p50: Quantile
    p95: Quantile
    p99: Quantile
    p999: Quantile
    sparkline: tuple[int, ...]
    """p95 (or the maximum where too few) per equal part of the window, 0 where there was no request; 24 parts."""
    wait_share: float | None
    """Share of sampled critical-path time that is waiting, likewise waste; None where no trace was sampled."""
    waste_share: float | None
    work_share: float | None
    density_step: DensityStep | None
    """A jump of its durations' density, whatever it comes from."""
    tail_sampling: TailSampling | None = None
    """Then no percentile is given: it would be that of a sampler."""

    @property
    def error_share(self) -> float:
        return self.adjusted_errors / self.adjusted_count if self.adjusted_count else 0.0

    @property
    def sampled(self) -> bool:
        return self.adjusted_count > self.count


@dataclass(frozen=True)
class ServiceEdge:
    """Caller to callee over remote parent links, or from a service to a database, cache or broker."""

    caller: str
    callee: str
    calls: int
    errors: int
    total_ns: int
    p95_ns: int


@dataclass(frozen=True)
class Overview:
    """Answers: is it slow, where, why, what first."""

    request_count: int
    span_count: int
    trace_count: int
    error_count: int
    endpoints: tuple[EndpointRow, ...]
    """By total time, largest first; drivers, worker polling and websockets are not ranked."""
    edges: tuple[ServiceEdge, ...]
    left_out: tuple[tuple[str, int], ...]
    """What is not ranked and how many: ('calls by drivers outside the system', 12), ('worker polling', 133) …"""
    notes: tuple[str, ...]
    """Data quality: missing parents, lost services, times in the future …"""
    partly: str = ""
    """That edges and notes are of a part of very many spans; empty where all were looked at."""


@dataclass(frozen=True)
class QueueRow:
    """One place where requests wait."""

    kind: str
    """`queue` (broker or task queue), `pool` (connection pool checkout) or `front` (in front of the application)."""
    name: str
    service: str
    """Who waits: the consuming service, or the one that checks connections out."""
    confidence: str
    """`measured`, `derived` or `inferred`."""
    count: int
    waited: int
    """How many waited noticeably (above 1 ms)."""
    p50: Quantile
    p95: Quantile
    p99: Quantile
    max_ns: int
    total_ns: int
    timeouts: int
    """Checkouts that gave up."""
    service_p50_ns: int
    """Median time the work itself took once it began, 0 where unknown."""
    payers: tuple[tuple[str, str, int, int], ...]
    """(service, endpoint, requests, waited ns) of the requests that pay, most first, at most 8."""
    bucket_ns: int
    start_ns: tuple[int, ...]
    arrivals: tuple[int, ...]
    wait_p95_ns: tuple[int | None, ...]
    trace_ids: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class QueuesReport:
    """All waits, most total time first."""

    rows: tuple[QueueRow, ...]
    never_run: tuple[tuple[str, str, int], ...]
    """(service, message name, count) published in the window without any consumer span."""
    notes: tuple[str, ...]
    """What spans cannot tell, with the instrumentation that would."""


@dataclass(frozen=True)
class AttemptOutcome:
    """What became of the k-th attempts."""

    ordinal: int
    attempts: int
    succeeded: int
    failed: int


@dataclass(frozen=True)
class RetryEdge:
    """Retries of one operation by one caller."""

    caller: str
    callee: str
    operation: str
    kind: str
    """`visible` (sibling attempts), `hidden` (several server spans under one client span) or `job` (task retried)."""
    calls: int
    """Logical calls, retried or not."""
    retried_calls: int
    attempts: int
    recovered: int
    exhausted: int
    wasted_ns: int
    """Time of failed attempts."""
    backoff_ns: int
    by_attempt: tuple[AttemptOutcome, ...]
    errors: tuple[tuple[str, int], ...]
    """What failed attempts ended with, most first."""
    backoff_gaps_ns: tuple[tuple[int, ...], ...]
    """backoff_gaps_ns[k]: gaps after the k-th attempt, at most 200 each."""
    backoff_shape: str
    """`none`, `constant`, `growing`, `jittered` or `unknown` (too few)."""
    endpoints: tuple[tuple[str, str, int], ...]
    """(service, endpoint, retried calls) that pay, most first, at most 8."""
    trace_ids: tuple[str, ...]

    @property
    def amplification(self) -> float:
        return self.attempts / self.calls if self.calls else 1.0


@dataclass(frozen=True)
class RetriesReport:
    """What retries cost, edge by edge, most wasted time first."""

    edges: tuple[RetryEdge, ...]
    examined_traces: int
    total_traces: int
    notes: tuple[str, ...]
    partly: str = ""
    """That calls, but not jobs, are those of a part of very many spans; empty where all were looked at."""


@dataclass(frozen=True)
class Gain:
    """What a fix should bring to one endpoint: every sampled trace re-timed, then the quantiles taken again."""

    service: str
    endpoint: str
    p50_before_ns: int
    p50_after_ns: int
    p99_before_ns: int
    p99_after_ns: int
    p99_saved_low_ns: int | None
    p99_saved_high_ns: int | None
    """95 % bootstrap interval of the saving at the quantile named by `quantile`; None below 20 sampled requests."""
    quantile: float
    """0.99 from 1,000 requests on, 0.95 from 72 on, else 0.5: the quantile that the `p99` fields are about."""
    request_seconds_per_day: float | None
    """Time that all requests of a day would save together; None where the window is shorter than ten minutes."""
    tail_share: float
    body_share: float
    """Share of the endpoint's sampled tail and body requests that the fix touches."""
    bound: str
    """`about`, `at least` where waits would shrink too, or `at most` where the fix may reach only a part of it."""
    assumption: str
    """What the edited trace assumes, as a sentence."""
    of_kept: bool = False
    """Whether quantiles are only those of kept requests, because traces look sampled by how long they took."""

    @property
    def p99_saved_ns(self) -> int:
        return self.p99_before_ns - self.p99_after_ns


@dataclass(frozen=True)
class Evidence:
    """One place to look: a trace, the spans at fault, and what they show."""

    trace_id: str
    span_ids: tuple[int, ...]
    note: str


@dataclass(frozen=True)
class Fix:
    """What to change."""

    title: str
    """Imperative."""
    steps: tuple[str, ...]
    before: str
    after: str
    """Python for the libraries that the spans name; empty where no snippet fits."""
    language: str


@dataclass(frozen=True)
class Finding:
    """One place where a detector fired."""

    detector: str
    fingerprint: str
    title: str
    service: str
    endpoint: str
    """Where it happens; of several endpoints the one with most time."""
    operation: str
    message: str
    occurrences: int
    affected_requests: int
    sampled_requests: int
    confidence: str
    """`high`, `medium` or `low`."""
    confidence_reason: str
    gains: tuple[Gain, ...]
    """What it would bring to each endpoint whose requests pass through it, callers included, most at the tail first."""
    evidence: tuple[Evidence, ...]
    fix: Fix

    @property
    def gain(self) -> Gain:
        """The largest gain: the finding is ranked by it."""
        return self.gains[0]


@dataclass(frozen=True)
class EndpointProfile:
    """What an endpoint's sampled requests spend their time on, as shares of the time on their critical paths."""

    service: str
    endpoint: str
    sampled: int
    work_share: float
    wait_share: float
    waste_share: float


@dataclass(frozen=True)
class FixesReport:
    """Findings, most gain at the tail first."""

    findings: tuple[Finding, ...]
    profiles: tuple[EndpointProfile, ...]
    """Of the endpoints that were examined: the ones with the most total time."""
    failed_detectors: tuple[tuple[str, str], ...]
    """(detector, what went wrong): one failing detector is reported, not fatal."""
    examined_requests: int
    total_requests: int
