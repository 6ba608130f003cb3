"""Which requests of an endpoint to look at: all of the tail, some of the rest, by a hash of their trace.

Requests are drawn from strata of duration, so the same data always gives the same sample, and each stands for a number
of requests (stratified sampling; weights are stratum size / drawn).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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


@dataclass(frozen=True)
class Draw(CohortBounds):
    """Which requests of one endpoint were drawn, before their traces are loaded."""

    rows: tuple[tuple[str, int, int, int], ...]
    """(trace id, span id, stratum, members of the stratum), by stratum and draw."""


def tail_quantile(count: int) -> float:
    """0.99, or 0.95 where the p99 cohort would hold fewer than ten requests."""
    return 0.99 if count >= MIN_REQUESTS_P99 else 0.95


def draw_requests(spans: Spans, shares: Mapping[tuple[str, str], float]) -> list[Draw]:
    """Which requests of each endpoint to load, in the order asked for; a few queries, whatever their number."""
    keys = list(shares)
    spans.keep(
        "drawable",
        """
        select asked.place, trace_id, span_id, duration_ns from requests
        join (
            select unnest($services) as service, unnest($endpoints) as endpoint, unnest($places) as place
        ) as asked on asked.service = requests.service and asked.endpoint = requests.endpoint
        """,
        services=[service for service, _ in keys],
        endpoints=[endpoint for _, endpoint in keys],
        places=list(range(len(keys))),
    )
    bounds = spans.rows(
        f"""
        select place, count(*) as n, {spans.quantile("duration_ns", 0.4)},
               {spans.quantile("duration_ns", 0.6)}, {spans.quantile("duration_ns", 0.9)},
               {spans.quantile("duration_ns", 0.95)}, {spans.quantile("duration_ns", 0.99)}
        from drawable group by place order by place
        """  # noqa: S608 - the engine's words for quantiles
    )
    plans = []
    for place, total, *found in bounds:
        low_ns, high_ns, p90_ns, p95_ns, p99_ns = (round(bound) for bound in found)
        q = tail_quantile(total)
        tail_ns = p99_ns if q == 0.99 else p95_ns
        caps = _caps(total, shares[keys[place]])
        plans.append(_Plan(int(place), int(total), q, low_ns, high_ns, p90_ns, tail_ns, caps))
    rows: dict[int, list[tuple[str, int, int, int]]] = {plan.place: [] for plan in plans}
    for place, trace_id, span_id, stratum, members in _drawn(spans, plans):
        rows[place].append((trace_id, int(span_id), int(stratum), int(members)))
    return [
        Draw(*keys[plan.place], plan.total, plan.q, plan.tail_ns, plan.low_ns, plan.high_ns, tuple(rows[plan.place]))
        for plan in plans
    ]


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


def _drawn(spans: Spans, plans: Sequence[_Plan]) -> list[tuple[Any, ...]]:
    """(place, trace id, span id, stratum, members of the stratum), by stratum and draw."""
    spans.keep(
        "strata",
        """
        select drawable.place, trace_id, span_id,
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


def draw_strata(spans: Spans, strata: Sequence[Stratum]) -> list[tuple[Any, ...]]:
    """(place, trace id, span id, stratum, members of the stratum) of the relation `strata`, by stratum and draw."""
    # Sorting all of 1.1 million requests by hash took 0.2 s: the lowest hashes are sought among the low ones first.
    drawn = _lowest(spans, strata, [stratum.enough for stratum in strata])
    if len(drawn) < sum(min(stratum.cap, stratum.members) for stratum in strata):
        drawn = _lowest(spans, strata, [_ALL_HASHES] * len(strata))
    return drawn


_ALL_HASHES = "g"
"""Above every hexadecimal digit."""


class Stratum(NamedTuple):
    """A part of the kept relation `strata` (place, trace_id, span_id, stratum): its size and how many to draw of it."""

    place: int
    number: int
    members: int
    cap: int

    @property
    def enough(self) -> str:
        """A bound below which about twice as many hashes as needed lie, and 64 more; in hexadecimal digits."""
        share = (2 * self.cap + 64) / self.members
        return f"{int(share * 2**48):012x}" if share < 1 else _ALL_HASHES


def _lowest(spans: Spans, strata: Sequence[Stratum], bounds: Sequence[str]) -> list[tuple[Any, ...]]:
    """Of each stratum the requests with the lowest hashes, as many as its cap, where they are below its bound."""
    return spans.rows(
        """
        with asked as (
            select unnest($places) as place, unnest($strata) as stratum, unnest($members) as members,
                   unnest($caps) as cap, unnest($bounds) as bound
        ), ranked as (
            select strata.*, members, cap,
                row_number() over (
                    partition by strata.place, strata.stratum order by md5(trace_id::varchar), span_id
                ) as draw
            from strata join asked on asked.place = strata.place and asked.stratum = strata.stratum
            where md5(trace_id::varchar) < bound
        )
        select place, replace(trace_id::varchar, '-', ''), span_id, stratum, members from ranked
        where draw <= cap
        order by place, stratum, draw
        """,
        places=[stratum.place for stratum in strata],
        strata=[stratum.number for stratum in strata],
        members=[stratum.members for stratum in strata],
        caps=[stratum.cap for stratum in strata],
        bounds=list(bounds),
    )


def _caps(total: int, share: float) -> tuple[int, ...]:
    if total <= ALL_BELOW * share:
        return (total,) * len(STRATA_CAPS)
    return tuple(max(8, round(cap * share)) for cap in STRATA_CAPS)
