"""Order-statistic intervals against exact binomial ranks and against coverage by simulation."""

from __future__ import annotations

import random
import time
from math import comb

import pytest

from analysis.quantiles import interval_ranks, quantile, sample_quantile

# Exact binomial ranks, computed independently of the code under test.
RANKS = {
    (100, 0.99): None,
    (367, 0.99): None,
    (368, 0.99): (360, 368),
    (400, 0.99): (392, 400),
    (1000, 0.99): (983, 997),
    (3000, 0.99): (2959, 2981),
    (10_000, 0.99): (9880, 9920),
    (100_000, 0.99): (98_938, 99_062),
    (71, 0.95): None,
    (72, 0.95): (64, 72),
    (100, 0.95): (90, 100),
    (1000, 0.95): (936, 964),
    (3687, 0.999): None,
    (3688, 0.999): (3680, 3688),
}


@pytest.mark.parametrize(("case", "expected"), RANKS.items())
def test_ranks(case: tuple[int, float], expected: tuple[int, int] | None) -> None:
    assert interval_ranks(*case) == expected


@pytest.mark.parametrize("count", [6, 20, 72, 150, 300])
@pytest.mark.parametrize("q", [0.5, 0.9, 0.95])
def test_coverage_by_the_binomial_sum(count: int, q: float) -> None:
    ranks = interval_ranks(count, q)
    if ranks is None:
        tail = 0.025
        assert (1 - q) ** count > tail or q**count > tail or count < 72
        return
    low, high = ranks
    coverage = sum(comb(count, k) * q**k * (1 - q) ** (count - k) for k in range(low, high))
    assert coverage >= 0.95
    below = sum(comb(count, k) * q**k * (1 - q) ** (count - k) for k in range(low))
    assert below <= 0.025


def test_coverage_by_simulation() -> None:
    draws = random.Random(7)
    hits = 0
    for _ in range(400):
        found = quantile(sorted(draws.randrange(1_000_000) for _ in range(400)), 0.95)
        assert found.low_ns is not None
        assert found.high_ns is not None
        hits += found.low_ns <= 950_000 <= found.high_ns
    assert hits / 400 > 0.925


def test_too_few_values_have_no_interval_and_none_at_all_no_value() -> None:
    assert quantile([], 0.99).value_ns is None
    few = quantile([1, 2, 3], 0.99)
    assert few.value_ns == 3
    assert not few.trusted


def test_interpolation_is_type_7() -> None:
    assert sample_quantile([0, 10], 0.25) == 2
    assert sample_quantile([1, 2, 3, 4], 0.5) == 2
    assert sample_quantile([5], 0.99) == 5


def test_ranks_of_a_hundred_million_values_take_no_walk_through_all_of_them() -> None:
    began = time.process_time()
    low, high = interval_ranks(100_000_000, 0.99) or (0, 0)
    assert time.process_time() - began < 1
    # 1.96 standard deviations of Binomial(10^8, 0.99) on either side.
    assert 99_000_000 - low == pytest.approx(1950, abs=2)
    assert high - 99_000_000 == pytest.approx(1950, abs=2)
