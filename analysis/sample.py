"""A bounded, repeatable sample of one endpoint's requests, whole traces with it: all of the tail, some of the rest.

Requests are drawn by a hash of their trace id from strata of duration, so the same data always gives the same sample,
and each carries the number of requests it stands for (stratified sampling; weights are stratum size / drawn).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.semantics import RequestClass
from analysis.span import Span, Spans, load_traces
from analysis.trace import Node, Trace, build_trace, host_clock

MIN_REQUESTS_P99 = 1000
"""A p99 cohort of fewer than ten requests says little about what the tail has in common."""
BODY = (0.4, 0.6)
_STRATA_CAPS = (40, 120, 60, 80, 200)
"""Requests drawn below p40, p40 to p60, p60 to p90, p90 to the tail, in the tail."""
FULL_SAMPLE = sum(_STRATA_CAPS)
ALL_BELOW = 400
"""Endpoints with at most this many requests are looked at whole."""


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


@dataclass(frozen=True, eq=False)
class Sample:
    """What was drawn of one endpoint."""

    service: str
    endpoint: str
    total: int
    tail_quantile: float
    tail_from_ns: int
    body_low_ns: int
    body_high_ns: int
    requests: tuple[SampledRequest, ...]

    @property
    def tail(self) -> list[SampledRequest]:
        return [request for request in self.requests if request.in_tail]

    @property
    def body(self) -> list[SampledRequest]:
        return [request for request in self.requests if request.in_body]


def tail_quantile(count: int) -> float:
    """0.99, or 0.95 where the p99 cohort would hold fewer than ten requests."""
    return 0.99 if count >= MIN_REQUESTS_P99 else 0.95


@dataclass(frozen=True)
class Draw:
    """Which requests of one endpoint were drawn, before their traces are loaded."""

    service: str
    endpoint: str
    total: int
    tail_quantile: float
    tail_from_ns: int
    body_low_ns: int
    body_high_ns: int
    rows: tuple[tuple[str, int, int, int], ...]
    """(trace id, span id, stratum, members of the stratum), by stratum and draw."""


def sample_endpoint(spans: Spans, service: str, endpoint: str, share: float = 1.0) -> Sample | None:
    """The sample of one endpoint, None where it has no request in the window; `share` scales the number drawn."""
    samples = sample_endpoints(spans, {(service, endpoint): share})
    return samples[0] if samples else None


def sample_endpoints(spans: Spans, shares: Mapping[tuple[str, str], float]) -> list[Sample]:
    """Samples of several endpoints (service, name) that have requests; a trace that they share is loaded once."""
    draws = _draws(spans, shares)
    traces = linked_traces(spans, [trace_id for draw in draws for trace_id, *_ in draw.rows])
    return [_sample(draw, traces) for draw in draws]


def _draws(spans: Spans, shares: Mapping[tuple[str, str], float]) -> list[Draw]:
    """Which requests of each endpoint to load, in the order asked for; two queries, whatever their number."""
    spans.keep(
        "drawable",
        """
        select requests.service, requests.endpoint, trace_id, span_id, duration_ns from requests
        join (select unnest($services) as service, unnest($endpoints) as endpoint) as asked
          on asked.service = requests.service and asked.endpoint = requests.endpoint
        """,
        services=[service for service, _ in shares],
        endpoints=[endpoint for _, endpoint in shares],
    )
    bounds = spans.rows(
        f"""
        select service, endpoint, count(*) as n, {spans.quantile("duration_ns", 0.4)},
               {spans.quantile("duration_ns", 0.6)}, {spans.quantile("duration_ns", 0.9)},
               {spans.quantile("duration_ns", 0.95)}, {spans.quantile("duration_ns", 0.99)}
        from drawable group by service, endpoint order by service, endpoint
        """  # noqa: S608 - the engine's words for quantiles
    )
    plans = {}
    for service, endpoint, total, *found in bounds:
        low_ns, high_ns, p90_ns, p95_ns, p99_ns = (round(bound) for bound in found)
        q = tail_quantile(total)
        plans[service, endpoint] = (int(total), q, low_ns, high_ns, p90_ns, p99_ns if q == 0.99 else p95_ns)
    rows: dict[tuple[str, str], list[tuple[str, int, int, int]]] = {key: [] for key in plans}
    for service, endpoint, trace_id, span_id, stratum, members in _drawn(spans, plans, shares):
        rows[service, endpoint].append((trace_id, int(span_id), int(stratum), int(members)))
    return [
        Draw(*key, total, q, tail_ns, low_ns, high_ns, tuple(rows[key]))
        for key in shares
        if key in plans
        for total, q, low_ns, high_ns, _, tail_ns in [plans[key]]
    ]


def _drawn(
    spans: Spans,
    plans: Mapping[tuple[str, str], tuple[int, float, int, int, int, int]],
    shares: Mapping[tuple[str, str], float],
) -> list[tuple[Any, ...]]:
    caps = [_caps(total, shares[key]) for key, (total, *_) in plans.items()]
    return spans.rows(
        """
        with plans as (
            select unnest($services) as service, unnest($endpoints) as endpoint, unnest($low) as low_ns,
                   unnest($high) as high_ns, unnest($p90) as p90_ns, unnest($tail) as tail_ns, unnest($cap0) as cap0,
                   unnest($cap1) as cap1, unnest($cap2) as cap2, unnest($cap3) as cap3, unnest($cap4) as cap4
        ), strata as (
            select drawable.*, cap0, cap1, cap2, cap3, cap4,
                case when duration_ns >= tail_ns then 4 when duration_ns > p90_ns then 3
                     when duration_ns > high_ns then 2 when duration_ns >= low_ns then 1 else 0 end as stratum
            from drawable
            join plans on plans.service = drawable.service and plans.endpoint = drawable.endpoint
        ), ranked as (
            select *, count(*) over (partition by service, endpoint, stratum) as members,
                row_number() over (
                    partition by service, endpoint, stratum order by md5(trace_id::varchar), span_id
                ) as draw
            from strata
        )
        select service, endpoint, replace(trace_id::varchar, '-', ''), span_id, stratum, members from ranked
        where draw <= case stratum when 0 then cap0 when 1 then cap1 when 2 then cap2 when 3 then cap3 else cap4 end
        order by service, endpoint, stratum, draw
        """,
        services=[service for service, _ in plans],
        endpoints=[endpoint for _, endpoint in plans],
        low=[plan[2] for plan in plans.values()],
        high=[plan[3] for plan in plans.values()],
        p90=[plan[4] for plan in plans.values()],
        tail=[plan[5] for plan in plans.values()],
        **{f"cap{stratum}": [cap[stratum] for cap in caps] for stratum in range(len(_STRATA_CAPS))},
    )


def _sample(draw: Draw, traces: Mapping[str, Trace]) -> Sample:
    per_stratum = [0] * len(_STRATA_CAPS)
    for row in draw.rows:
        per_stratum[row[2]] += 1
    requests = []
    for trace_id, span_id, stratum, members in draw.rows:
        trace = traces[trace_id]
        root = _request_root(trace, span_id, draw.service)
        if root is None:
            continue
        duration_ns = root.duration_ns
        requests.append(
            SampledRequest(
                trace,
                root,
                duration_ns,
                members / per_stratum[stratum],
                stratum,
                in_tail=root.span.duration_ns >= draw.tail_from_ns,
                in_body=draw.body_low_ns <= root.span.duration_ns <= draw.body_high_ns,
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
        tuple(requests),
    )


def _caps(total: int, share: float) -> tuple[int, ...]:
    if total <= ALL_BELOW * share:
        return (total,) * len(_STRATA_CAPS)
    return tuple(max(8, round(cap * share)) for cap in _STRATA_CAPS)


def _request_root(trace: Trace, span_id: int, service: str) -> Node | None:
    node = trace.nodes.get(span_id)
    if node is not None and node.span.service == service and node.span.request_class != RequestClass.NONE:
        return node
    return next((n for n in trace.walk() if n.span.span_id == span_id and n.span.service == service), None)


def linked_traces(spans: Spans, trace_ids: list[str]) -> dict[str, Trace]:
    """The traces as trees on one clock, skew estimated over all of them."""
    loaded: Mapping[str, list[Span]] = load_traces(spans, list(dict.fromkeys(trace_ids)))
    clock = host_clock(loaded.values())
    return {trace_id: build_trace(members, clock) for trace_id, members in loaded.items()}
