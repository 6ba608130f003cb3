"""Latency of endpoints: exact quantiles with intervals, the same over time, and as a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.density_step import DensityStep
from analysis.endpoint_reports import HeatMap, LatencySeries
from analysis.grouped import bucket_size_ns, bucket_starts_ns, group_quantiles
from analysis.quantiles import quantiles_of_kept
from analysis.reports import EndpointRow
from analysis.sampling import ADJUSTED_COUNT, adjusted_sum, is_sampled
from analysis.span import Spans

SPARKLINE_PARTS = 24

_FIELDS = """
    service as first, endpoint as second, duration_ns as value_ns, case when outcome = 'ok' then 0 else 1 end as failed
"""
_FROM = "from requests where request_class in ('request', 'candidate')"
_REQUESTS = f"select {_FIELDS} {_FROM}"
_ADJUSTED = f"select {_FIELDS}, {ADJUSTED_COUNT} as adjusted_count {_FROM}"
_OF_ENDPOINT = "and service = $service and endpoint = $endpoint"

_ENOUGH = {0.5: 1, 0.95: 20, 0.99: 100}
"""Requests from which a bucket shows a quantile: one of them is expected beyond it."""


def endpoint_rows(spans: Spans) -> list[EndpointRow]:
    """All endpoints of the window by total time, largest first; drivers, polling and websockets are no endpoints."""
    return _rows(spans, "", {})


@dataclass(frozen=True)
class EndpointTotal:
    """How many requests of an endpoint the window holds, and the time together of all that they stand for."""

    service: str
    endpoint: str
    count: int
    total_ns: int


def endpoint_totals(spans: Spans) -> list[EndpointTotal]:
    """The endpoints of `endpoint_rows` in its order, without quantiles: a fifth of its time."""
    sampled = is_sampled(spans)
    rows = spans.rows(
        f"""
        select first, second, count(*) as n,
               {adjusted_sum("value_ns") if sampled else "sum(value_ns)::hugeint"} as total_ns
        from ({_ADJUSTED if sampled else _REQUESTS}) as source
        group by first, second
        order by total_ns desc, first, second
        """  # noqa: S608 - constants of this module
    )
    return [EndpointTotal(service, endpoint, int(count), int(total)) for service, endpoint, count, total in rows]


def endpoint_row(spans: Spans, service: str, endpoint: str) -> EndpointRow | None:
    """One endpoint of the window, None where it has no request."""
    rows = _rows(spans, _OF_ENDPOINT, {"service": service, "endpoint": endpoint})
    return rows[0] if rows else None


def endpoint_density_step(spans: Spans, service: str, endpoint: str) -> DensityStep | None:
    """The jump of one endpoint's density of durations, as in its row; None where trace states say what was sampled."""
    if is_sampled(spans):
        return None
    source, asked = f"{_REQUESTS} {_OF_ENDPOINT}", {"service": service, "endpoint": endpoint}
    found = group_quantiles(spans, source, asked, qs=(0.5,), steps=True)
    return found[service, endpoint].density_step if found else None


def _rows(spans: Spans, condition: str, parameters: Mapping[str, object]) -> list[EndpointRow]:
    sampled = is_sampled(spans)
    source = f"{_ADJUSTED if sampled else _REQUESTS} {condition}"
    groups = group_quantiles(spans, source, parameters, adjusted=sampled, steps=not sampled)
    sparklines = _sparklines(spans, condition, parameters)
    seconds = max(spans.window.duration_ns, 1) / 1e9
    empty = (0,) * SPARKLINE_PARTS
    return [
        EndpointRow(
            service=service,
            endpoint=endpoint,
            count=group.count,
            errors=group.failed,
            adjusted_count=group.adjusted_count,
            adjusted_errors=group.adjusted_failed,
            rate_per_s=group.adjusted_count / seconds,
            total_ns=group.total_ns,
            p50=group.quantiles[0],
            p95=group.quantiles[1],
            p99=group.quantiles[2],
            p999=group.quantiles[3],
            sparkline=sparklines.get((service, endpoint), empty),
            wait_share=None,
            waste_share=None,
            work_share=None,
            density_step=group.density_step,
        )
        for (service, endpoint), group in groups.items()
    ]


def _sparklines(
    spans: Spans, condition: str, parameters: Mapping[str, object]
) -> Mapping[tuple[str, str], tuple[int, ...]]:
    """p95 in each of 24 equal parts of the window, or the maximum where a part holds fewer than 20 requests."""
    window = spans.window
    part_ns = max(1, -(-window.duration_ns // SPARKLINE_PARTS))
    into = _Division(window.start_ns, part_ns, SPARKLINE_PARTS, (0.95,))
    lines: dict[tuple[str, str], list[int]] = {}
    for part in _by_time(spans, into, condition, parameters):
        line = lines.setdefault((part.service, part.endpoint), [0] * SPARKLINE_PARTS)
        line[part.number] = part.quantiles_ns[0] if part.requests >= _ENOUGH[0.95] else part.max_ns
    return {key: tuple(line) for key, line in lines.items()}


class _Division(NamedTuple):
    """Equal parts of a window, and what to take of each."""

    first_ns: int
    part_ns: int
    parts: int
    qs: tuple[float, ...]


class _Part(NamedTuple):
    """One endpoint's requests in one part."""

    service: str
    endpoint: str
    number: int
    requests: int
    failed: int
    max_ns: int
    quantiles_ns: tuple[int, ...]


def _by_time(spans: Spans, into: _Division, condition: str, parameters: Mapping[str, object]) -> Iterator[_Part]:
    sampled = is_sampled(spans)
    if sampled:
        asked = f"list(duration_ns::bigint) as durations_ns, list(({ADJUSTED_COUNT})::double) as weights"
    else:
        asked = ", ".join(spans.quantile("duration_ns", q) for q in into.qs)
    query = spans.arrays if sampled else spans.rows
    rows = query(
        f"""
        select service, endpoint, floor((start_ns - $first_ns) / $part_ns)::bigint as part, count(*) as n,
               sum(case when outcome = 'ok' then 0 else 1 end)::bigint as failed, max(duration_ns)::bigint as max_ns,
               {asked}
        {_FROM} {condition}
        group by service, endpoint, part
        order by service, endpoint, part
        """,
        first_ns=into.first_ns,
        part_ns=into.part_ns,
        **parameters,
    )
    for service, endpoint, number, count, failed, max_ns, *values in rows:
        if not 0 <= number < into.parts:
            continue
        if sampled:
            found = quantiles_of_kept(values[0].astype(np.float64), values[1], into.qs)
            quantiles_ns = tuple(quantile.value_ns or 0 for quantile in found)
        else:
            quantiles_ns = tuple(map(round, values))
        yield _Part(service, endpoint, int(number), int(count), int(failed), int(max_ns), quantiles_ns)


def latency_series(spans: Spans, service: str, endpoint: str, buckets: int = 60) -> LatencySeries:
    """One endpoint's requests by time, in round, aligned buckets; empty buckets are in it with a count of 0."""
    window = spans.window
    bucket_ns = bucket_size_ns(window.duration_ns, buckets)
    starts = bucket_starts_ns(window.start_ns, window.end_ns, bucket_ns)
    qs = tuple(_ENOUGH)
    counts, errors = [0] * len(starts), [0] * len(starts)
    lines: list[list[int | None]] = [[None] * len(starts) for _ in qs]
    into = _Division(starts[0], bucket_ns, len(starts), qs)
    for part in _by_time(spans, into, _OF_ENDPOINT, {"service": service, "endpoint": endpoint}):
        counts[part.number], errors[part.number] = part.requests, part.failed
        for line, q, value in zip(lines, qs, part.quantiles_ns, strict=True):
            line[part.number] = value if part.requests >= _ENOUGH[q] else None
    p50, p95, p99 = (tuple(line) for line in lines)
    return LatencySeries(bucket_ns, starts, tuple(counts), tuple(errors), p50, p95, p99)


def heat_map(spans: Spans, service: str, endpoint: str, buckets: int = 60, max_rows: int = 32) -> HeatMap:
    """One endpoint's requests by time and duration.

    Duration buckets grow by the fourth root of 2, or coarser: the exponent doubles until max_rows of them suffice.
    """
    window = spans.window
    bucket_ns = bucket_size_ns(window.duration_ns, buckets)
    starts = bucket_starts_ns(window.start_ns, window.end_ns, bucket_ns)
    shortest, longest = spans.rows(
        """
        select coalesce(min(duration_ns), 0), coalesce(max(duration_ns), 0) from requests
        where service = $service and endpoint = $endpoint and request_class in ('request', 'candidate')
        order by 1, 2
        """,
        service=service,
        endpoint=endpoint,
    )[0]
    edges = _edges(int(shortest), int(longest), max_rows)
    rows = spans.rows(
        """
        select edge_index, floor((start_ns - $first_ns) / $bucket_ns) as bucket, count(*) as n
        from requests
        join (
            select unnest($indexes) as edge_index, unnest($lows) as low_ns, unnest($highs) as high_ns
        ) as edges on duration_ns >= low_ns and duration_ns < high_ns
        where service = $service and endpoint = $endpoint and request_class in ('request', 'candidate')
        group by edge_index, bucket
        order by edge_index, bucket
        """,
        first_ns=starts[0],
        bucket_ns=bucket_ns,
        indexes=list(range(len(edges) - 1)),
        lows=list(edges[:-1]),
        highs=list(edges[1:]),
        service=service,
        endpoint=endpoint,
    )
    counts = [[0] * len(starts) for _ in edges[1:]]
    for index, bucket, count in rows:
        counts[index][int(bucket)] = int(count)
    return HeatMap(bucket_ns, starts, edges, tuple(tuple(row) for row in counts))


def _edges(shortest_ns: int, longest_ns: int, max_rows: int) -> tuple[int, ...]:
    """Whole nanoseconds, strictly rising; the last is above the longest duration."""
    low, high = max(shortest_ns, 1), max(longest_ns, 1)
    exponent = 0.25
    while True:
        first = math.floor(math.log2(low) / exponent)
        last = math.floor(math.log2(high) / exponent) + 1
        edges = sorted({round(2 ** (step * exponent)) for step in range(first, last + 1)})
        while edges[-1] <= high:
            edges.append(round(edges[-1] * 2**exponent) + 1)
        if edges[0] > shortest_ns:
            edges[0] = shortest_ns
        if len(edges) - 1 <= max_rows:
            return tuple(edges)
        exponent *= 2
