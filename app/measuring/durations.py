"""How long something takes: quantiles over the last minutes, and a histogram since the start.

Promises: bounded memory whatever is added, about 1 µs an addition, quantiles within 2.2 %, the longest exact.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram since the start; one more holds the rest."""

_BOUNDS_NS = tuple(round(bound * 1e9) for bound in BUCKETS_S)
_PER_DOUBLING = 32
"""A bucket is 2.2 % wide, and what stands for it is the mean of what it holds: a value that is alone in it is exact."""
_SLICES = 30


@dataclass(frozen=True)
class DurationSummary:
    """Quantiles of the last `window_s` seconds, and what was counted since the start."""

    window_s: int
    count: int
    """In the window; the quantiles are 0 where it is 0."""
    p50_ns: int
    p95_ns: int
    p99_ns: int
    max_ns: int
    total_count: int
    total_ns: int
    buckets: tuple[int, ...]
    """Cumulative since the start: how many took at most each of `BUCKETS_S`; then all."""


@dataclass
class _Slice:
    number: int
    buckets: dict[int, tuple[int, int]] = field(default_factory=dict)
    """How many, and their sum."""
    max_ns: int = 0


class Durations:
    """Durations of one kind; the caller sees to it that no two threads use it at once."""

    def __init__(self, window_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._slice_s = window_s / _SLICES
        self._clock = clock
        self._slices: deque[_Slice] = deque(maxlen=_SLICES)
        self._since_start = [0] * (len(BUCKETS_S) + 1)
        self._total_ns = 0

    def add(self, duration_ns: int) -> None:
        duration_ns = max(duration_ns, 1)
        self._since_start[bisect_left(_BOUNDS_NS, duration_ns)] += 1
        self._total_ns += duration_ns
        now = self._slice_now()
        bucket = int(math.log2(duration_ns) * _PER_DOUBLING)
        count, sum_ns = now.buckets.get(bucket, (0, 0))
        now.buckets[bucket] = count + 1, sum_ns + duration_ns
        now.max_ns = max(now.max_ns, duration_ns)

    def summary(self) -> DurationSummary:
        """The window ends now; its far end is cut to a thirtieth of it."""
        first = self._number() - _SLICES + 1
        recent = [each for each in self._slices if each.number >= first]
        merged: dict[int, tuple[int, int]] = {}
        for each in recent:
            for bucket, (count, sum_ns) in each.buckets.items():
                known, known_ns = merged.get(bucket, (0, 0))
                merged[bucket] = known + count, known_ns + sum_ns
        count = sum(each for each, _ in merged.values())
        p50_ns, p95_ns, p99_ns = (_ranked(merged, math.ceil(q * count)) for q in (0.50, 0.95, 0.99))
        buckets = tuple(accumulate(self._since_start))
        return DurationSummary(
            self._window_s,
            count,
            p50_ns,
            p95_ns,
            p99_ns,
            max((each.max_ns for each in recent), default=0),
            buckets[-1],
            self._total_ns,
            buckets,
        )

    def _number(self) -> int:
        return int(self._clock() / self._slice_s)

    def _slice_now(self) -> _Slice:
        number = self._number()
        if not self._slices or self._slices[-1].number != number:
            self._slices.append(_Slice(number))
        return self._slices[-1]


def _ranked(buckets: dict[int, tuple[int, int]], rank: int) -> int:
    """The mean of the bucket with the value of that rank, counted from 1."""
    for bucket in sorted(buckets):
        count, sum_ns = buckets[bucket]
        rank -= count
        if rank <= 0:
            return round(sum_ns / count)
    return 0
