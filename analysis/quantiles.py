"""Quantiles with order-statistic intervals: no bare p99 where the sample cannot carry one.

Method: the ranks around a sample quantile that hold the true one with 95 % confidence follow from the binomial
distribution alone, without any assumption about the shape of the data (David & Nagaraja, Order Statistics, 7.1).
Where a value stands for several requests, for different numbers of them, as many equal ones are taken as would estimate
the share below the quantile as well (Woodruff, JASA 1952; Kish's design effect, for this share alone).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

CONFIDENCE = 0.95

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Integers = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Quantile:
    """One quantile of durations in nanoseconds with its 95 % interval.

    `low_ns` and `high_ns` are None where `count` is too small for a two-sided interval (368 for p99, 72 for p95);
    `value_ns` is None where there is no data at all, or none that tells it.
    """

    q: float
    count: int
    value_ns: int | None
    low_ns: int | None
    high_ns: int | None

    @property
    def trusted(self) -> bool:
        return self.low_ns is not None


@lru_cache(maxsize=4096)
def interval_ranks(count: int, q: float) -> tuple[int, int] | None:
    """One-based ranks (low, high) of the shortest equal-tailed 95 % interval for quantile q, None where none exists.

    P(X_(low) <= true quantile <= X_(high)) >= 0.95, that is each tail of Binomial(count, q) holds at most 2.5 %.
    """
    tail = (1 - CONFIDENCE) / 2
    if (1 - q) ** count > tail or q**count > tail:
        return None
    cumulative = _Cumulative(count, q)
    low = cumulative.first + bisect_right(cumulative.sums, tail)
    high = cumulative.first + bisect_left(cumulative.sums, 1 - tail) + 1
    if low < 1 or high > count:
        return None
    return low, high


class _Cumulative:
    """P(X <= first + i) of Binomial(count, q) as `sums[i]`, only where the mass is; the rest is below 1e-15."""

    def __init__(self, count: int, q: float) -> None:
        spread = 12 * math.sqrt(count * q * (1 - q)) + 12
        self.first = first = max(0, int(count * q - spread))
        last = min(count, int(count * q + spread))
        log_odds = math.log(q) - math.log1p(-q)
        begin = math.lgamma(count + 1) - math.lgamma(first + 1) - math.lgamma(count - first + 1)
        # Each probability from the one before: gamma functions of every k took 1 ms a quantile of 40,000 requests.
        k = np.arange(first, last, dtype=np.float64)
        steps = np.log((count - k) / (k + 1)) + log_odds
        logs = np.concatenate([[0.0], np.cumsum(steps)])
        logs += begin + first * math.log(q) + (count - first) * math.log1p(-q)
        self.sums: list[float] = np.cumsum(np.exp(logs)).tolist()


def sample_quantile(ordered: Sequence[int] | Integers, q: float) -> int:
    """The interpolated quantile (Hyndman & Fan type 7, as DuckDB's quantile_cont) of a sorted, non-empty sample."""
    position = (len(ordered) - 1) * q
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    low, high = int(ordered[below]), int(ordered[above])
    return round(low + (high - low) * (position - below))


def quantiles_at(values_ns: Integers, qs: Sequence[float]) -> tuple[int, ...]:
    """`sample_quantile` of a non-empty sample in any order."""
    selected = selected_for(values_ns, qs)
    return tuple(sample_quantile(selected, q) for q in qs)


def selected_for(values_ns: Integers, qs: Sequence[float], ranks: Iterable[int] = ()) -> Integers:
    """A non-empty sample with what `sample_quantile` reads, and values at one-based ranks, in their places.

    Selected, not sorted: a window function over 2.8 million requests took 1.2 s for the intervals, this 0.1 s.
    """
    last = len(values_ns) - 1
    wanted = {min(math.floor(last * q) + step, last) for q in qs for step in (0, 1)} | {rank - 1 for rank in ranks}
    return np.partition(values_ns, sorted(wanted))


def quantile(ordered: Sequence[int], q: float) -> Quantile:
    """The quantile of a sorted sample with its interval."""
    count = len(ordered)
    if count == 0:
        return Quantile(q, 0, None, None, None)
    ranks = interval_ranks(count, q)
    low, high = (ordered[ranks[0] - 1], ordered[ranks[1] - 1]) if ranks else (None, None)
    return Quantile(q, count, sample_quantile(ordered, q), low, high)


def weighted_quantile(values: Floats, weights: Floats, q: float) -> float:
    """The interpolated quantile of values that stand for `weights` requests each, which need not be whole.

    Each value lies in the middle of the ranks that it stands for, so that equal weights of 1 give the engine's own
    quantile (Hyndman & Fan type 7). A step function would read the boundary of a thinly sampled stratum from its
    largest drawn member: p99 came out 3 to 5 % too low, savings 5 to 12 %.
    """
    order = np.argsort(values, kind="stable")
    ordered = weights[order]
    ends = np.cumsum(ordered)
    ranks = ends - (ordered + 1) / 2
    return float(np.interp(q * (ends[-1] - 1), ranks, values[order]))


def quantiles_of_kept(values: Floats, weights: Floats, qs: Sequence[float]) -> tuple[Quantile, ...]:
    """Quantiles of all requests from kept ones that stand for `weights` of them each; there is at least one."""
    count = len(values)
    order = np.argsort(values, kind="stable")
    ordered, shares = values[order], weights[order] / weights.sum()
    ends = np.cumsum(shares)
    found = []
    for q in qs:
        value_ns = weighted_quantile(ordered, shares / shares.min(), q)
        spread = np.square(shares * ((ordered <= value_ns) - q)).sum()
        as_many = round(q * (1 - q) / float(spread))
        ranks = interval_ranks(as_many, q)
        bounds: tuple[int | None, int | None] = (None, None)
        if ranks is not None:
            places = np.searchsorted(ends, [(rank - 0.5) / as_many for rank in ranks])
            low, high = ordered[np.minimum(places, count - 1)]
            bounds = round(float(low)), round(float(high))
        found.append(Quantile(q, count, round(value_ns), *bounds))
    return tuple(found)
