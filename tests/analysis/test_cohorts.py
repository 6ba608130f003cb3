"""The interval of tail minus body against the known truth of simulated windows."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.cohorts import DrawnTimes, difference_interval

CAPS = (40, 120, 60, 80, 200)
Durations = np.ndarray[tuple[int], np.dtype[np.float64]]


def requests(random: np.random.Generator, count: int) -> tuple[Durations, Durations]:
    """Time at work, and the wait that one request in twenty has."""
    wait = np.where(random.random(count) < 0.05, random.lognormal(4.5, 0.5, count), 0)
    return random.lognormal(3, 0.5, count), wait


@pytest.mark.parametrize(("count", "tail"), [(200, 0.95), (3000, 0.99)])
def test_the_interval_holds_the_true_difference(count: int, tail: float) -> None:
    random = np.random.default_rng(17)
    work, wait = requests(random, 1_000_000)
    low, high, from_ns = np.quantile(work + wait, (0.4, 0.6, tail))
    slow, typical = work + wait >= from_ns, (work + wait >= low) & (work + wait <= high)
    true = float(wait[slow].mean() - wait[typical].mean())
    held = 0
    for _ in range(60):
        work, wait = requests(random, count)
        total = work + wait
        low, high, p90, from_ns = np.quantile(total, (0.4, 0.6, 0.9, tail))
        strata = np.select([total >= from_ns, total > p90, total > high, total >= low], [4, 3, 2, 1], 0)
        members = [np.flatnonzero(strata == stratum) for stratum in range(5)]
        drawn = [random.choice(m, min(cap, len(m)), replace=False) for m, cap in zip(members, CAPS, strict=True)]
        weights = np.concatenate([np.full(len(d), len(m) / len(d)) for m, d in zip(members, drawn, strict=True)])
        chosen = np.concatenate(drawn)
        drawn_times = DrawnTimes(total[chosen], chosen, weights, np.ones(len(chosen)), strata[chosen])
        lows, highs = difference_interval(drawn_times, wait[chosen].reshape(-1, 1), tail)
        held += lows[0] <= true <= highs[0]
    # 57 where it is exact; a bootstrap of ten to thirty tail requests falls a little short.
    assert held >= 50
