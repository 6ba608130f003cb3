"""The vocabulary: what a span is to every analysis, and the one handle through which analyses read spans."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol


class Kind(IntEnum):
    """Span kinds by their OTLP numbers (opentelemetry/proto/trace/v1/trace.proto, Span.SpanKind)."""

    UNSPECIFIED = 0
    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class Status(IntEnum):
    """Status codes by their OTLP numbers (trace.proto, Status.StatusCode)."""

    UNSET = 0
    OK = 1
    ERROR = 2


class Span(NamedTuple):
    """One span as analyses of whole traces see it: a field is a column of the store's `spans` view, in this order."""

    trace_id: str
    """32 lower-case hex digits."""
    span_id: int
    parent_span_id: int
    """0 where the span has no parent."""
    parent_origin: str
    """One of `analysis.semantics.ParentOrigin`: whether the parent is in the same process, remote, or not said."""
    kind: int
    service: str
    instance: str
    """Key of the process: service.instance.id, else host and pid, else empty."""
    host: str
    """host.id or host.name of the resource, else empty: clock skew is estimated between hosts only."""
    scope_name: str
    name: str
    endpoint: str
    """Method and route, else the span's name."""
    operation_class: str
    """One of `analysis.semantics.OperationClass`."""
    operation: str
    """Operation key: normalised statement, method with URL template, RPC method, destination, else the name."""
    peer: str
    """Address and port, database, or destination that a client span talks to, else empty."""
    start_ns: int
    """Nanoseconds since the epoch."""
    duration_ns: int
    """Never negative."""
    status: int
    outcome: str
    """One of `analysis.semantics.Outcome`."""
    error_type: str
    http_status: int
    """HTTP response status code, 0 where there is none."""
    attempt: int
    """Ordinal of the attempt where instrumentation says it (1 is the first), 0 where it does not."""
    ready_ns: int
    """When queued work became due (arq score, Celery eta, x-request-start), 0 where nothing says it."""
    message_id: str
    """Message or job id, the same for every delivery and retry of one job, else empty."""
    target_hash: int
    """Hash of the literal statement or URL, 0 where none is recorded: tells identical calls from similar ones."""
    request_class: str
    """One of `analysis.semantics.RequestClass`."""
    span_hash: int
    """Hash of the whole content: exact repeats of a span share it."""

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.duration_ns

    @property
    def failed(self) -> bool:
        return self.outcome != "ok"


SPAN_COLUMNS = ", ".join(
    "replace(trace_id::varchar, '-', '') as trace_id" if name == "trace_id" else name for name in Span._fields
)
"""The select list that makes a row of the `spans` view a `Span`."""


@dataclass(frozen=True)
class Window:
    """A half-open span of time in nanoseconds since the epoch: requests that start in it are looked at."""

    start_ns: int
    end_ns: int

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


MOST_EXAMINED = 500_000
"""Spans of a window whose relations within their traces are looked at, such as calls with their answers: joins of 10
million took 2 to 3 s. What each span says by itself is taken from all of them."""


@dataclass(frozen=True)
class Thinned:
    """How much of the window's spans is looked at."""

    kept: int
    total: int

    @property
    def whole(self) -> bool:
        return self.kept == self.total

    @property
    def share(self) -> float:
        return self.kept / self.total if self.total else 1.0


class Spans(Protocol):
    """Read access to one dataset in one time window, given to analyses instead of a database connection.

    Relations that a query may name, all cut to the dataset:
    `spans` starts inside the window; `requests` is the subset of `spans` that are requests (entry spans);
    `trace_spans` has every span of the dataset whatever its time, for completing traces;
    `trace_times(trace_id, first_ns, last_ns)`: rows whose times together enclose all starts of a trace's spans;
    `span_events(trace_id, span_id, span_hash, position, time_ns, name, attributes)`;
    `span_links(trace_id, span_id, span_hash, position, linked_trace_id, linked_span_id, attributes)`;
    `resources(resource_id, service, attributes)` and `scopes(scope_id, name, version, attributes)`, which all datasets
    share: they are for joining to a span by id.
    `spans`, `requests` and `trace_spans` have the fields of `Span` (trace_id as UUID) and
    `resource_id, scope_id, status_message, service_version, attributes, trace_state`. `trace_spans` has `place` too,
    where the store keeps a span: for a select that finds few spans first and then reads their attributes.
    """

    @property
    def window(self) -> Window: ...

    def rows(self, sql: str, **parameters: object) -> list[tuple[Any, ...]]:
        """All rows of one select; values only as `$name`. Raises `analysis.errors.QueryInterrupted` on a deadline."""
        ...

    def arrays(self, sql: str, **parameters: object) -> list[tuple[Any, ...]]:
        """As `rows`, for many rows; lists of whole numbers come as numpy arrays, without an object for each number."""
        ...

    def keep(self, name: str, sql: str, **parameters: object) -> None:
        """Makes a relation of a select for the further queries of this handle, computed once; made anew if it is."""
        ...

    def thinned(self, most: int) -> AbstractContextManager[Thinned]:
        """While it lasts `spans` and `requests` hold whole traces with about `most` spans, without their attributes.

        For joins within traces. Requests that wait for one another do so in bursts, and neither traces nor moments
        drawn from them show that: p95 of a pool's waits came out as 0.3 and 29 to 69 ms instead of 42.
        """
        ...

    def quantile(self, column: str, q: float) -> str:
        """The engine's words for the exact interpolated quantile of a column, for use inside a select list."""
        ...


def load_traces(spans: Spans, trace_ids: Sequence[str]) -> dict[str, list[Span]]:
    """All spans of the given traces (32 hex digits each), whatever their time, in start order."""
    traces: dict[str, list[Span]] = {trace_id: [] for trace_id in trace_ids}
    if not traces:
        return traces
    first_ns, last_ns = trace_bounds(spans, "select unnest($trace_ids)::uuid", trace_ids=list(traces))
    rows = spans.arrays(
        f"""
        select {SPAN_COLUMNS} from trace_spans
        where trace_id in (select unnest($trace_ids)::uuid) and start_ns between $first_ns and $last_ns
        order by trace_spans.trace_id, start_ns, span_id, span_hash
        """,  # noqa: S608 - a constant select list
        trace_ids=list(traces),
        first_ns=first_ns,
        last_ns=last_ns,
    )
    for span in map(Span._make, rows):
        traces[span.trace_id].append(span)
    return traces


def trace_bounds(spans: Spans, wanted: str, **parameters: object) -> tuple[int, int]:
    """First and last start among all spans of the traces that a select yields: what a search for them may skip.

    Start times rise with the order of arrival, more or less, so that a store reads only the part in between.
    """
    first_ns, last_ns = spans.rows(
        f"""
        select coalesce(min(first_ns), 0), coalesce(max(last_ns), -1) from trace_times
        where trace_id in ({wanted}) order by 1, 2
        """,  # noqa: S608 - texts of this package only
        **parameters,
    )[0]
    return int(first_ns), int(last_ns)
