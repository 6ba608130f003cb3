"""Quantiles against an exact computation, the window, and bounded memory."""

from __future__ import annotations

import math
import random

import pytest

from app.measuring.durations import BUCKETS_S, Durations


class Clock:
    """A clock that goes on when told."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_are_within_their_promise(seed: int) -> None:
    chance = random.Random(seed)
    values = [round(chance.lognormvariate(15, 2)) + 1 for _ in range(3_000)]
    durations = Durations(600, Clock())
    for value in values:
        durations.add(value)
    summary, ordered = durations.summary(), sorted(values)
    for q, found in ((0.50, summary.p50_ns), (0.95, summary.p95_ns), (0.99, summary.p99_ns)):
        exact = ordered[math.ceil(q * len(ordered)) - 1]
        assert abs(found - exact) / exact <= 0.022
    assert (summary.count, summary.max_ns) == (3_000, ordered[-1])


def test_few_values_are_exact_and_none_are_none() -> None:
    durations = Durations(600, Clock())
    empty = durations.summary()
    assert (empty.count, empty.p50_ns, empty.p99_ns, empty.max_ns, empty.total_count) == (0, 0, 0, 0, 0)
    for value in (329_000_001, 5, 70_000):
        durations.add(value)
    summary = durations.summary()
    assert (summary.p50_ns, summary.p95_ns, summary.p99_ns) == (70_000, 329_000_001, 329_000_001)


def test_what_is_older_than_the_window_is_forgotten_but_counted_since_the_start() -> None:
    clock = Clock()
    durations = Durations(300, clock)
    durations.add(1_000_000_000)
    clock.now_s += 280
    durations.add(1_000)
    assert durations.summary().max_ns == 1_000_000_000
    clock.now_s += 25
    summary = durations.summary()
    assert (summary.count, summary.max_ns, summary.total_count, summary.total_ns) == (1, 1_000, 2, 1_000_001_000)
    clock.now_s += 10_000
    assert durations.summary().count == 0


def test_the_histogram_is_cumulative_and_its_bounds_are_inclusive() -> None:
    durations = Durations(600, Clock())
    for bound in BUCKETS_S:
        durations.add(round(bound * 1e9))
    durations.add(3600 * 10**9)
    assert durations.summary().buckets == tuple(range(1, len(BUCKETS_S) + 2))


def test_memory_is_bounded_whatever_is_added() -> None:
    clock = Clock()
    durations = Durations(600, clock)
    for exponent in range(50_000):
        clock.now_s += 0.5
        durations.add(int(1.5 ** (exponent % 90)))
    assert len(durations._slices) <= 30
    assert max(len(each.buckets) for each in durations._slices) <= 90
