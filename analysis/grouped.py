"""Exact quantiles with intervals for many groups at once: two queries, whatever the number of groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.quantiles import Quantile, interval_ranks
from analysis.span import Spans

QUANTILES = (0.5, 0.95, 0.99, 0.999)

_NICE_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True)
class Group:
    """Measures of one group: count, how many failed, sum, maximum and quantiles in the asked order."""

    count: int
    failed: int
    total_ns: int
    max_ns: int
    quantiles: tuple[Quantile, ...]


def group_quantiles(
    spans: Spans, source: str, parameters: Mapping[str, object] | None = None, qs: Sequence[float] = QUANTILES
) -> dict[tuple[str, str], Group]:
    """Measures by (first, second) of a select that yields `first, second, value_ns, failed`, largest total first.

    `source` is SQL text of the caller's own, never of a sender's. Values come from the engine's exact quantile,
    bounds of the intervals are order statistics (see `analysis.quantiles.interval_ranks`).
    """
    measures = ", ".join(f"{spans.quantile('value_ns', q)} as q{index}" for index, q in enumerate(qs))
    rows = spans.rows(
        f"""
        select first, second, count(*) as n, sum(failed) as failures, sum(value_ns) as total_ns,
               max(value_ns) as max_ns, {measures}
        from ({source}) as source
        group by first, second
        order by total_ns desc, first, second
        """,  # noqa: S608 - texts of this package only
        **(parameters or {}),
    )
    bounds = _order_statistics(spans, source, parameters or {}, {(row[0], row[1]): int(row[2]) for row in rows}, qs)
    groups = {}
    for first, second, count, failures, total_ns, max_ns, *values in rows:
        quantiles = []
        for q, value in zip(qs, values, strict=True):
            ranks = interval_ranks(count, q)
            low, high = (bounds[first, second, rank] for rank in ranks) if ranks else (None, None)
            quantiles.append(Quantile(q, count, round(value), low, high))
        groups[first, second] = Group(count, int(failures), int(total_ns), int(max_ns), tuple(quantiles))
    return groups


def _order_statistics(
    spans: Spans,
    source: str,
    parameters: Mapping[str, object],
    counts: Mapping[tuple[str, str], int],
    qs: Sequence[float],
) -> dict[tuple[str, str, int], int]:
    wanted = sorted({(*key, rank) for key, n in counts.items() for q in qs for rank in interval_ranks(n, q) or ()})
    if not wanted:
        return {}
    rows = spans.rows(
        f"""
        select ranked.first, ranked.second, ranked.rank, ranked.value_ns
        from (
            select first, second, value_ns,
                   row_number() over (partition by first, second order by value_ns) as rank
            from ({source}) as source
        ) as ranked
        join (
            select unnest($wanted_firsts) as first, unnest($wanted_seconds) as second, unnest($wanted_ranks) as rank
        ) as wanted
          on ranked.first = wanted.first and ranked.second = wanted.second and ranked.rank = wanted.rank
        order by ranked.first, ranked.second, ranked.rank
        """,  # noqa: S608 - texts of this package only
        wanted_firsts=[first for first, _, _ in wanted],
        wanted_seconds=[second for _, second, _ in wanted],
        wanted_ranks=[rank for _, _, rank in wanted],
        **parameters,
    )
    return {(first, second, rank): int(value_ns) for first, second, rank, value_ns in rows}


def bucket_size_ns(duration_ns: int, buckets: int) -> int:
    """The smallest round size (1 s, 2 s, 5 s … 1 min, 5 min … whole days) that needs at most so many buckets."""
    for seconds in _NICE_SECONDS:
        if seconds * 1_000_000_000 * buckets >= duration_ns:
            return seconds * 1_000_000_000
    days = -(-duration_ns // (86_400 * 1_000_000_000 * buckets))
    return days * 86_400 * 1_000_000_000


def bucket_starts_ns(start_ns: int, end_ns: int, bucket_ns: int) -> tuple[int, ...]:
    """Starts of all buckets that touch [start_ns, end_ns), each a whole multiple of the size; at least one."""
    first = start_ns // bucket_ns * bucket_ns
    return tuple(range(first, max(end_ns, first + 1), bucket_ns))
