"""Exact quantiles with intervals for many groups at once: one query, whatever the number of groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.density_step import DensityStep, density_step
from analysis.quantiles import Integers, Quantile, interval_ranks, quantiles_of_kept, sample_quantile, selected_for
from analysis.sampling import adjusted_sum
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
    adjusted_count: float
    """How many the group stands for, of which so many failed: `count` and `failed` where nothing was sampled."""
    adjusted_failed: float
    density_step: DensityStep | None


def group_quantiles(
    spans: Spans,
    source: str,
    parameters: Mapping[str, object] | None = None,
    qs: Sequence[float] = QUANTILES,
    *,
    adjusted: bool = False,
    steps: bool = False,
) -> dict[tuple[str, str], Group]:
    """Measures by (first, second) of a select that yields `first, second, value_ns, failed`, largest total first.

    `source` is SQL text of the caller's own, never of a sender's. Values are exact, interpolated quantiles, bounds
    of the intervals are order statistics (see `analysis.quantiles.interval_ranks`). With `adjusted` the select yields
    `adjusted_count` too, how many each value stands for; with `steps` a jump of the density is looked for.
    """
    stands_for = "adjusted_count" if adjusted else "1"
    rows = spans.arrays(
        f"""
        select first, second, count(*) as n, sum(failed)::bigint as failures,
               {adjusted_sum("value_ns") if adjusted else "sum(value_ns)::hugeint"} as total_ns,
               max(value_ns)::bigint as max_ns,
               list(value_ns::bigint) as durations_ns, sum({stands_for})::double as stood,
               sum(failed * {stands_for})::double as failures_stood,
               {"list(adjusted_count::double)" if adjusted else "null"} as weights
        from ({source}) as source
        group by first, second
        order by total_ns desc, first, second
        """,  # noqa: S608 - texts of this package only
        **(parameters or {}),
    )
    return {
        (first, second): Group(
            count=count,
            failed=failures,
            total_ns=int(total_ns),
            max_ns=max_ns,
            quantiles=quantiles_of_kept(durations_ns.astype(np.float64), weights, qs)
            if adjusted
            else _quantiles(durations_ns, qs),
            adjusted_count=stood,
            adjusted_failed=failures_stood,
            density_step=density_step(durations_ns) if steps else None,
        )
        for first, second, count, failures, total_ns, max_ns, durations_ns, stood, failures_stood, weights in rows
    }


def _quantiles(values_ns: Integers, qs: Sequence[float]) -> tuple[Quantile, ...]:
    count = len(values_ns)
    ranks = [interval_ranks(count, q) for q in qs]
    selected = selected_for(values_ns, qs, [rank for pair in ranks for rank in pair or ()])
    found = []
    for q, pair in zip(qs, ranks, strict=True):
        bounds = (int(selected[pair[0] - 1]), int(selected[pair[1] - 1])) if pair else (None, None)
        found.append(Quantile(q, count, sample_quantile(selected, q), *bounds))
    return tuple(found)


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
