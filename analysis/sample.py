"""A bounded, repeatable sample of one endpoint's requests, whole traces with it: the requests drawn, as trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from analysis.checkouts import mark_openings
from analysis.draw import STRATA_CAPS, CohortBounds, Draw, draw_requests
from analysis.node import Node
from analysis.semantics import RequestClass
from analysis.span import Span, Spans, load_traces
from analysis.trace import Trace, build_traces, host_clock


@dataclass(frozen=True, eq=False)
class SampledRequest:
    """A request with its trace; it stands for `weight` requests of the endpoint."""

    trace: Trace
    root: Node
    duration_ns: int
    weight: float
    stratum: int
    in_tail: bool
    in_body: bool
    adjusted_count: float = 1.0
    """How many requests it stood for before any was drawn, after a sampler upstream: part of `weight`."""

    @property
    def drawn_weight(self) -> float:
        """How many kept requests it stands for: stratum size / drawn."""
        return self.weight / self.adjusted_count


@dataclass(frozen=True, eq=False)
class Sample(CohortBounds):
    """What was drawn of one endpoint."""

    requests: tuple[SampledRequest, ...]

    @property
    def tail(self) -> list[SampledRequest]:
        return [request for request in self.requests if request.in_tail]

    @property
    def body(self) -> list[SampledRequest]:
        return [request for request in self.requests if request.in_body]


def sample_endpoint(spans: Spans, service: str, endpoint: str, share: float = 1.0) -> Sample | None:
    """The sample of one endpoint, None where it has no request in the window; `share` scales the number drawn."""
    samples = sample_endpoints(spans, {(service, endpoint): share})
    return samples[0] if samples else None


def sample_endpoints(spans: Spans, shares: Mapping[tuple[str, str], float]) -> list[Sample]:
    """Samples of several endpoints (service, name) that have requests; a trace that they share is loaded once."""
    draws = draw_requests(spans, shares)
    traces = linked_traces(spans, [one.trace_id for draw in draws for one in draw.rows])
    return [_sample(draw, traces) for draw in draws]


def _sample(draw: Draw, traces: Mapping[str, Trace]) -> Sample:
    per_stratum = [0] * len(STRATA_CAPS)
    for one in draw.rows:
        per_stratum[one.stratum] += 1
    requests = []
    for one in draw.rows:
        trace = traces[one.trace_id]
        root = request_root(trace, one.span_id, draw.service)
        if root is None:
            continue
        duration_ns = root.duration_ns
        requests.append(
            SampledRequest(
                trace,
                root,
                duration_ns,
                one.members / per_stratum[one.stratum] * one.adjusted_count,
                one.stratum,
                in_tail=root.span.duration_ns >= draw.tail_from_ns,
                in_body=draw.body_low_ns <= root.span.duration_ns <= draw.body_high_ns,
                adjusted_count=one.adjusted_count,
            )
        )
    return Sample(
        draw.service,
        draw.endpoint,
        draw.total,
        draw.tail_quantile,
        draw.tail_from_ns,
        draw.body_low_ns,
        draw.body_high_ns,
        draw.density_step,
        tuple(requests),
    )


def request_root(trace: Trace, span_id: int, service: str) -> Node | None:
    """The node of a drawn request; None where the trace has no such span of the service."""
    node = trace.nodes.get(span_id)
    if node is not None and node.span.service == service and node.span.request_class != RequestClass.NONE:
        return node
    return next((n for n in trace.walk() if n.span.span_id == span_id and n.span.service == service), None)


def linked_traces(spans: Spans, trace_ids: list[str]) -> dict[str, Trace]:
    """The traces as trees on one clock, skew and what was waited for judged over all of them."""
    loaded: Mapping[str, list[Span]] = load_traces(spans, list(dict.fromkeys(trace_ids)))
    clock = host_clock(loaded.values())
    traces = build_traces(loaded.values(), clock)
    mark_openings(spans, (node for trace in traces for node in trace.walk()))
    return dict(zip(loaded, traces, strict=True))


def mean_duration_ns(requests: Sequence[SampledRequest]) -> float:
    """Of one cohort, at least one request; each counts as often as it stands for after a sampler upstream."""
    stand_for = sum(request.adjusted_count for request in requests)
    return sum(request.duration_ns * request.adjusted_count for request in requests) / stand_for


def equally_likely(requests: Sequence[SampledRequest]) -> list[SampledRequest]:
    """Of some requests those that would be there had all been sampled alike: shares of them are shares of all.

    Each stays with its adjusted count / the largest, by a hash of its trace id other than the one that draws.
    """
    largest = max((request.adjusted_count for request in requests), default=1.0)
    return [request for request in requests if _unit_hash(request.trace.trace_id) * largest < request.adjusted_count]


def _unit_hash(trace_id: str) -> float:
    """In [0, 1)."""
    return int.from_bytes(blake2b(trace_id.encode(), digest_size=6).digest()) / 2**48
