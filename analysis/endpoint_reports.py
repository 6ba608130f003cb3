"""What the analysis of one endpoint answers: frozen dataclasses like those of `analysis.reports`."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.ledger import Category
from analysis.reports import EndpointRow

END_OF_TIME_NS = 2**63 - 1


@dataclass(frozen=True)
class Region:
    """Requests that began from `from_ns` on and before `to_ns`, and took `low_ns` or longer but less than `high_ns`."""

    from_ns: int = 0
    to_ns: int = END_OF_TIME_NS
    low_ns: int = 0
    high_ns: int = END_OF_TIME_NS


IN_REGION = "(start_ns >= $from_ns and start_ns < $to_ns and duration_ns >= $low_ns and duration_ns < $high_ns)"
"""Whether a request is in a region, in SQL; its values are the region's fields."""


@dataclass(frozen=True)
class Side:
    """All requests of one side, not only the drawn ones."""

    count: int
    failed: int
    p50_ns: int


@dataclass(frozen=True)
class LatencySeries:
    """Latency over time: equal buckets; a quantile is None where the bucket holds too few requests for it."""

    bucket_ns: int
    start_ns: tuple[int, ...]
    count: tuple[int, ...]
    errors: tuple[int, ...]
    p50_ns: tuple[int | None, ...]
    p95_ns: tuple[int | None, ...]
    p99_ns: tuple[int | None, ...]


@dataclass(frozen=True)
class HeatMap:
    """Requests by time bucket and duration bucket; duration buckets grow by a constant factor."""

    bucket_ns: int
    start_ns: tuple[int, ...]
    edges_ns: tuple[int, ...]
    """Lower edges of the duration buckets, then the upper edge of the last."""
    counts: tuple[tuple[int, ...], ...]
    """counts[duration bucket][time bucket]."""


@dataclass(frozen=True)
class LedgerRow:
    """One label of one category: mean time a request spends there, body against tail."""

    category: Category
    label: str
    body_mean_ns: int
    tail_mean_ns: int
    difference_low_ns: int
    difference_high_ns: int
    """95 % bootstrap interval of tail minus body."""
    z: float
    """The difference in standard deviations of the body, 0.5 ms added to them: what changed, beside what it costs."""
    far_share: float
    """Share of the tail in which it takes longer than by its own scatter: beyond Tukey's fence of its logarithms."""
    trace_ids: tuple[str, ...]
    """Tail traces that spend most there, at most 5."""

    @property
    def difference_ns(self) -> int:
        return self.tail_mean_ns - self.body_mean_ns


@dataclass(frozen=True)
class Exemplar:
    """A request worth opening."""

    label: str
    """`p50`, `p95`, `p99`, `slowest`, `error` …"""
    trace_id: str
    span_id: int
    start_ns: int
    duration_ns: int
    failed: bool


@dataclass(frozen=True)
class ValueContrast:
    """A value that slow requests have more often than normal ones."""

    service: str
    """Whose spans or resource have it."""
    key: str
    """An attribute, or `calls`: then the value is the operation."""
    value: str
    """Empty where slow requests lack the attribute."""
    tail_share: float
    body_share: float
    explained_share: float
    """Share of the slow requests that have it beyond what normal ones lead to expect."""
    false_discovery_rate: float
    """Share of false rows to expect among those at least as clear (Benjamini, Hochberg)."""
    same_as: tuple[str, ...]
    """What else marks the same requests, at most 6."""
    trace_ids: tuple[str, ...]


@dataclass(frozen=True)
class NumberContrast:
    """A number that is larger, or smaller, in slow requests."""

    service: str
    key: str
    tail_median: float
    body_median: float
    larger_share: float
    """How often it is larger in a slow request than in a normal one, over all pairs; ties count half."""
    false_discovery_rate: float
    symptom: bool
    """Whether it says how the request went rather than why."""


@dataclass(frozen=True)
class Contrasts:
    """What slow requests have that normal ones do not, clearest first."""

    values: tuple[ValueContrast, ...]
    symptoms: tuple[ValueContrast, ...]
    """Those that restate that a request was slow or failed."""
    numbers: tuple[NumberContrast, ...]
    tested: int
    """How many values and numbers were compared, 0 where there are too few requests."""


@dataclass(frozen=True)
class Suspect:
    """One service, the more suspect the larger its score."""

    service: str
    z: float
    """Mean over its spans and calls to it: how many standard deviations each took longer than usual, beyond chance."""
    cost_ns: float
    """By how much a request became longer for it."""
    stops: float
    """Share of the requests to it after which the calls that usually follow are missing."""
    fails: float
    """Share of the requests to it in which a failure began, beyond the usual."""
    score: float


@dataclass(frozen=True)
class LatencyChange:
    """A moment at which an endpoint's latency went to another level."""

    quantile: float
    at_ns: int
    before_ns: int
    after_ns: int
    """Medians of the quantile's values in the buckets before and after, up to the next change."""
    category: Category | None
    """With the label the place whose mean time changed most with it; None where none stands out."""
    label: str
    growth_ns: int
    suspect: Suspect | None
    """The service that the change points to, where one clearly does."""
    versions: tuple[str, ...]
    """`service version` of each version first seen at about that time."""

    @property
    def grew(self) -> bool:
        return self.after_ns > self.before_ns


@dataclass(frozen=True)
class PathStep:
    """One call path on the critical paths of many requests; means over the requests of a cohort."""

    service: str
    name: str
    """Endpoint of an entry span, `→ service endpoint` of a call to another service, else operation."""
    category: Category
    """Of most of its own time."""
    depth: int
    parent: int
    """Place of the caller's step, -1 at the top."""
    body_ns: int
    tail_ns: int
    """With all that is below it."""
    body_own_ns: int
    tail_own_ns: int

    @property
    def difference_ns(self) -> int:
        return self.tail_ns - self.body_ns

    @property
    def own_difference_ns(self) -> int:
        return self.tail_own_ns - self.body_own_ns


@dataclass(frozen=True)
class EndpointReport:
    """Why the tail of one endpoint is slow."""

    row: EndpointRow
    withheld: str
    """Why there are no percentiles, where traces look sampled by how long they took; then the tail is what was kept
    from `tail_from_ns` on, and the body what was kept below, or both are cut as usual from what was kept. Else empty.
    """
    sentence: str
    """What the slow requests do that the normal ones do not, built from the numbers."""
    before: str
    """What happens before the request's own span begins, such as the wait of a message in its queue; else empty."""
    tail_quantile: float
    """0.99, or 0.95 where there are too few requests; the tail cohort is at or above it."""
    tail_from_ns: int
    body_low_ns: int
    body_high_ns: int
    """The p40 to p60 range that makes the body cohort."""
    sampled_tail: int
    sampled_body: int
    series: LatencySeries
    changes: tuple[LatencyChange, ...]
    """In order of time, at most 3."""
    heat_map: HeatMap
    ledger: tuple[LedgerRow, ...]
    """By difference, largest first; category totals are `category_rows`."""
    category_rows: tuple[LedgerRow, ...]
    contrasts: Contrasts
    path: tuple[PathStep, ...]
    """The critical paths of body and tail laid over each other, callers before what they call."""
    exemplars: tuple[Exemplar, ...]
    trust: tuple[str, ...]
    """How far to trust it: how many of how many were looked at, missing spans, too few requests …"""


@dataclass(frozen=True)
class ChosenReport:
    """What the requests in a region do that the endpoint's other requests do not.

    In the ledger, the contrasts and the path `tail` is who was chosen and `body` is the rest.
    """

    service: str
    endpoint: str
    region: Region
    chosen: Side
    rest: Side
    sentence: str
    sampled_tail: int
    sampled_body: int
    ledger: tuple[LedgerRow, ...]
    category_rows: tuple[LedgerRow, ...]
    contrasts: Contrasts
    path: tuple[PathStep, ...]
    exemplars: tuple[Exemplar, ...]
    trust: tuple[str, ...]
