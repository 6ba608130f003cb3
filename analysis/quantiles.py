"""Quantiles with order-statistic intervals: no bare p99 where the sample cannot carry one.

Method: the ranks around a sample quantile that hold the true one with 95 % confidence follow from the binomial
distribution alone, without any assumption about the shape of the data (David & Nagaraja, Order Statistics, 7.1).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Quantile:
    """One quantile of durations in nanoseconds with its 95 % interval.

    `low_ns` and `high_ns` are None where `count` is too small for a two-sided interval (368 for p99, 72 for p95);
    `value_ns` is None where there is no data at all.
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


def sample_quantile(ordered: Sequence[int], q: float) -> int:
    """The interpolated quantile (Hyndman & Fan type 7, as DuckDB's quantile_cont) of a sorted, non-empty sample."""
    position = (len(ordered) - 1) * q
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return round(ordered[below] + (ordered[above] - ordered[below]) * (position - below))


def quantile(ordered: Sequence[int], q: float) -> Quantile:
    """The quantile of a sorted sample with its interval."""
    count = len(ordered)
    if count == 0:
        return Quantile(q, 0, None, None, None)
    ranks = interval_ranks(count, q)
    low, high = (ordered[ranks[0] - 1], ordered[ranks[1] - 1]) if ranks else (None, None)
    return Quantile(q, count, sample_quantile(ordered, q), low, high)
