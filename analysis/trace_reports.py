"""What is shown of single traces: the waterfall, one span, and the list of requests. Durations are nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.endpoint_reports import PathStep
from analysis.ledger import Category, Slice


@dataclass(frozen=True)
class TraceSpanRow:
    """One span as the waterfall draws it, depth first."""

    span_id: int
    parent_span_id: int
    depth: int
    service: str
    name: str
    kind: int
    category: Category
    start_ns: int
    """Corrected start; `raw_start_ns` is what the sender said."""
    raw_start_ns: int
    duration_ns: int
    self_ns: int
    critical: tuple[tuple[int, int], ...]
    """(start, end) parts of the critical path that belong to this span."""
    critical_ns: int
    failed: bool
    outcome: str
    error_type: str
    attempt: int
    """1, 2, … where the span is one of several attempts, else 0."""
    operation: str
    peer: str
    scope_name: str
    notes: tuple[str, ...]
    """Corrections with their reason: skew, clipped, parent not received, in a cycle, continues after the response …"""
    child_count: int


@dataclass(frozen=True)
class SpanDetail:
    """Everything the sender said about one span."""

    span_id: int
    attributes: str
    """JSON text."""
    resource: str
    scope_name: str
    scope_version: str
    events: tuple[tuple[int, str, str], ...]
    """(time_ns, name, attributes as JSON text)."""
    links: tuple[tuple[str, int, str], ...]
    """(trace id, span id, attributes as JSON text)."""
    status_message: str
    trace_state: str
    flags: int
    dropped_attributes_count: int
    dropped_events_count: int
    dropped_links_count: int


@dataclass(frozen=True)
class TraceStart:
    """A request in a trace that no other request of it waited for: a root, a job, work after a response."""

    span_id: int
    service: str
    endpoint: str
    start_ns: int
    duration_ns: int


@dataclass(frozen=True)
class TraceReport:
    """One trace as a waterfall; critical path and ledger are those of the request named by `root_service`."""

    trace_id: str
    start_ns: int
    duration_ns: int
    root_service: str
    root_endpoint: str
    services: tuple[str, ...]
    span_count: int
    error_count: int
    rows: tuple[TraceSpanRow, ...]
    """At most the asked number; `span_count` says how many there are."""
    slices: tuple[Slice, ...]
    """The ledger of that request."""
    notes: tuple[str, ...]
    others: tuple[TraceStart, ...] = ()
    """The trace's other requests that nobody waited for, in start order, at most 20."""


@dataclass(frozen=True)
class TraceListRow:
    """One request in the list of traces."""

    trace_id: str
    span_id: int
    service: str
    endpoint: str
    start_ns: int
    duration_ns: int
    outcome: str
    error_type: str
    http_status: int
    span_count: int


@dataclass(frozen=True)
class TraceList:
    """Requests that match filters, in the asked order, one page of them."""

    rows: tuple[TraceListRow, ...]
    matched: int
    services: tuple[str, ...]
    endpoints: tuple[tuple[str, str], ...]
    """(service, endpoint) in the window, for the filter form."""


@dataclass(frozen=True)
class ComparedRequest:
    """One of two requests that are laid over each other."""

    trace_id: str
    span_id: int
    service: str
    endpoint: str
    start_ns: int
    duration_ns: int
    failed: bool
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class PlaceTimes:
    """What two requests spent in one place on their critical paths."""

    category: Category
    label: str
    this_ns: int
    other_ns: int

    @property
    def difference_ns(self) -> int:
        return self.this_ns - self.other_ns


@dataclass(frozen=True)
class CallCounts:
    """How often each of two requests made a call, where they differ; calls beside the critical path count too."""

    service: str
    name: str
    this: int
    other: int


@dataclass(frozen=True)
class TraceComparison:
    """Two requests laid over each other; `tail` in the steps of the path is this one, `body` the other."""

    this: ComparedRequest
    other: ComparedRequest
    sentence: str
    places: tuple[PlaceTimes, ...]
    """Largest difference first; each column adds up to its request."""
    calls: tuple[CallCounts, ...]
    path: tuple[PathStep, ...]
