"""Which requests of an endpoint to look at: all of the tail, some of the rest, by a hash of their trace.

Requests are drawn from strata of duration, so the same data always gives the same sample, and each stands for a number
of requests (stratified sampling; weights are stratum size / drawn). Where they were sampled upstream, each counts as
often as it stands for when the strata are cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.density_step import DensityStep, density_step
from analysis.quantiles import quantiles_at, weighted_quantile
from analysis.sampling import ADJUSTED_COUNT, is_sampled
from analysis.span import Spans

MIN_REQUESTS_P99 = 1000
"""A p99 cohort of fewer than ten requests says little about what the tail has in common."""
BODY = (0.4, 0.6)
STRATA_CAPS = (40, 120, 60, 80, 200)
"""Requests drawn below p40, p40 to p60, p60 to p90, p90 to the tail, in the tail."""
FULL_SAMPLE = sum(STRATA_CAPS)
ALL_BELOW = 400
"""Endpoints with at most this many requests are looked at whole."""


@dataclass(frozen=True)
class CohortBounds:
    """Where tail and body of one endpoint's requests lie."""

    service: str
    endpoint: str
    total: int
    tail_quantile: float
    tail_from_ns: int
    body_low_ns: int
    body_high_ns: int
    density_step: DensityStep | None
    """A jump in the density of their durations, whatever it comes from."""


@dataclass(frozen=True)
class Draw(CohortBounds):
    """Which requests of one endpoint were drawn, before their traces are loaded."""

    rows: tuple[DrawnRequest, ...]
    """By stratum and draw."""


class DrawnRequest(NamedTuple):
    """One that was drawn, before its trace is loaded."""

    trace_id: str
    span_id: int
    stratum: int
    members: int
    """Of the stratum."""
    adjusted_count: float
    """How many requests it stands for after a sampler upstream."""


def tail_quantile(count: float) -> float:
    """0.99, or 0.95 where the p99 cohort would hold fewer than ten requests."""
    return 0.99 if count >= MIN_REQUESTS_P99 else 0.95


def draw_requests(spans: Spans, shares: Mapping[tuple[str, str], float]) -> list[Draw]:
    """Which requests of each endpoint to load, in the order asked for; a few queries, whatever their number."""
    keys = list(shares)
    sampled = is_sampled(spans)
    spans.keep(
        "drawable",
        f"""
        select asked.place, trace_id, span_id, duration_ns, {ADJUSTED_COUNT if sampled else "1.0"} as adjusted_count
        from requests
        join (
            select unnest($services) as service, unnest($endpoints) as endpoint, unnest($places) as place
        ) as asked on asked.service = requests.service and asked.endpoint = requests.endpoint
        """,  # noqa: S608 - a constant expression
        services=[service for service, _ in keys],
        endpoints=[endpoint for _, endpoint in keys],
        places=list(range(len(keys))),
    )
    plans = []
    for found in _bounds(spans, sampled):
        low_ns, high_ns, p90_ns, p95_ns, p99_ns = found.at
        q = tail_quantile(100 * found.beyond_p99)
        tail_ns = p99_ns if q == 0.99 else p95_ns
        caps = _caps(found.total, shares[keys[found.place]])
        plans.append(_Plan(found.place, found.total, q, low_ns, high_ns, p90_ns, tail_ns, caps, found.density_step))
    rows: dict[int, list[DrawnRequest]] = {plan.place: [] for plan in plans}
    for place, one in _drawn(spans, plans):
        rows[place].append(one)
    return [
        Draw(
            *keys[plan.place],
            plan.total,
            plan.q,
            plan.tail_ns,
            plan.low_ns,
            plan.high_ns,
            plan.density_step,
            tuple(rows[plan.place]),
        )
        for plan in plans
    ]


_BOUNDS = (*BODY, 0.9, 0.95, 0.99)


class _Bounds(NamedTuple):
    """What the durations of one endpoint's requests tell."""

    place: int
    total: int
    beyond_p99: float
    """How many of the kept requests to expect there."""
    at: tuple[int, ...]
    """Durations at `_BOUNDS`."""
    density_step: DensityStep | None


def _bounds(spans: Spans, sampled: bool) -> Iterator[_Bounds]:
    # Selecting among numbers took 68 ms of 520,000 requests, quantile_cont 86 to 135 ms.
    rows = spans.arrays(
        f"""
        select place, list(duration_ns::bigint) as durations_ns,
               {"list(adjusted_count::double)" if sampled else "null"} as weights
        from drawable group by place order by place
        """  # noqa: S608 - one of two constant expressions
    )
    for place, durations_ns, weights in rows:
        total = len(durations_ns)
        if not sampled:
            yield _Bounds(place, total, total / 100, quantiles_at(durations_ns, _BOUNDS), density_step(durations_ns))
            continue
        values = durations_ns.astype(np.float64)
        at = tuple(round(weighted_quantile(values, weights / weights.min(), q)) for q in _BOUNDS)
        # A sampler that keeps slow requests leaves more of them than the hundredth part.
        yield _Bounds(place, total, float((durations_ns >= at[-1]).sum()), at, None)


class _Plan(NamedTuple):
    """The strata of one endpoint, by its place among those asked for, and how many to draw of each."""

    place: int
    total: int
    q: float
    low_ns: int
    high_ns: int
    p90_ns: int
    tail_ns: int
    caps: tuple[int, ...]
    density_step: DensityStep | None


def _drawn(spans: Spans, plans: Sequence[_Plan]) -> list[tuple[int, DrawnRequest]]:
    """With the place of its endpoint, by stratum and draw."""
    spans.keep(
        "strata",
        """
        select drawable.place, trace_id, span_id, adjusted_count,
               case when duration_ns >= tail_ns then 4 when duration_ns > p90_ns then 3
                    when duration_ns > high_ns then 2 when duration_ns >= low_ns then 1 else 0 end as stratum
        from drawable
        join (
            select unnest($places) as place, unnest($low) as low_ns, unnest($high) as high_ns, unnest($p90) as p90_ns,
                   unnest($tail) as tail_ns
        ) as plans on plans.place = drawable.place
        """,
        places=[plan.place for plan in plans],
        low=[plan.low_ns for plan in plans],
        high=[plan.high_ns for plan in plans],
        p90=[plan.p90_ns for plan in plans],
        tail=[plan.tail_ns for plan in plans],
    )
    caps = {plan.place: plan.caps for plan in plans}
    strata = [
        Stratum(int(place), int(stratum), int(members), caps[place][stratum])
        for place, stratum, members in spans.rows(
            "select place, stratum, count(*) as n from strata group by place, stratum order by place, stratum"
        )
    ]
    return draw_strata(spans, strata)


def draw_strata(spans: Spans, strata: Sequence[Stratum]) -> list[tuple[int, DrawnRequest]]:
    """Of the relation `strata`, with the place, by stratum and draw."""
    # Sorting all of 1.1 million requests by hash took 0.2 s: the lowest hashes are sought among the low ones first.
    # The engine's own hash of a trace id, another in each of its versions perhaps: md5 took 0.17 s of 520,000.
    drawn = _lowest(spans, strata, [stratum.enough for stratum in strata])
    if len(drawn) < sum(min(stratum.cap, stratum.members) for stratum in strata):
        drawn = _lowest(spans, strata, [_ALL_HASHES] * len(strata))
    return drawn


_ALL_HASHES = 2**64 - 1


class Stratum(NamedTuple):
    """A part of the kept relation `strata` (place, trace_id, span_id, adjusted_count, stratum) and how many to draw."""

    place: int
    number: int
    members: int
    cap: int

    @property
    def enough(self) -> int:
        """A bound up to which about twice as many hashes as needed lie, and 64 more."""
        return min(_ALL_HASHES, (2 * self.cap + 64) * 2**64 // self.members)


def _lowest(spans: Spans, strata: Sequence[Stratum], bounds: Sequence[int]) -> list[tuple[int, DrawnRequest]]:
    """Of each stratum the requests with the lowest hashes, as many as its cap, where they are below its bound."""
    rows = spans.rows(
        """
        with asked as (
            select unnest($places) as place, unnest($strata) as stratum, unnest($members) as members,
                   unnest($caps) as cap, unnest($bounds)::ubigint as bound
        ), ranked as (
            select strata.*, members, cap,
                row_number() over (
                    partition by strata.place, strata.stratum order by hash(trace_id), span_id
                ) as draw
            from strata join asked on asked.place = strata.place and asked.stratum = strata.stratum
            where hash(trace_id) <= bound
        )
        select place, replace(trace_id::varchar, '-', ''), span_id, stratum, members, adjusted_count from ranked
        where draw <= cap
        order by place, stratum, draw
        """,
        places=[stratum.place for stratum in strata],
        strata=[stratum.number for stratum in strata],
        members=[stratum.members for stratum in strata],
        caps=[stratum.cap for stratum in strata],
        bounds=list(bounds),
    )
    return [
        (int(place), DrawnRequest(trace_id, int(span_id), int(stratum), int(members), float(adjusted)))
        for place, trace_id, span_id, stratum, members, adjusted in rows
    ]


def _caps(total: int, share: float) -> tuple[int, ...]:
    if total <= ALL_BELOW * share:
        return (total,) * len(STRATA_CAPS)
    return tuple(max(8, round(cap * share)) for cap in STRATA_CAPS)
