"""Tests of significance against exact enumeration, worked examples and their own promises."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.significance import false_discovery_rates, larger, more_often


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_fisher_is_the_share_of_all_assignments(of: int, of_other: int, data: st.DataObject) -> None:
    count, other = data.draw(st.integers(0, of)), data.draw(st.integers(0, of_other))
    marked, total = count + other, of + of_other
    if not marked:
        assert more_often(count, of, other, of_other) == 1.0
        return
    ways = sum(math.comb(marked, k) * math.comb(total - marked, of - k) for k in range(count, min(of, marked) + 1))
    assert more_often(count, of, other, of_other) == pytest.approx(ways / math.comb(total, of))


def test_fisher_on_the_lady_tasting_tea() -> None:
    # Fisher, The Design of Experiments: all four cups right by chance is 1 in 70, three of four 17 in 70.
    assert more_often(4, 4, 0, 4) == pytest.approx(1 / 70)
    assert more_often(3, 4, 1, 4) == pytest.approx(17 / 70)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_the_share_of_larger_values_is_that_of_all_pairs(first: list[int], second: list[int]) -> None:
    pairs = [(a > b) + 0.5 * (a == b) for a in first for b in second]
    p, share = larger(first, second)
    assert share == pytest.approx(sum(pairs) / len(pairs))
    assert 0 <= p <= 1
    assert larger(second, first)[0] == pytest.approx(p)
    assert larger(second, first)[1] == pytest.approx(1 - share)


def test_rank_test_is_near_the_exact_one() -> None:
    random = np.random.default_rng(5)
    first, second = random.normal(0.8, 1, 10).tolist(), random.normal(0, 1, 10).tolist()
    values = first + second
    seen = abs(sum(a > b for a in first for b in second) - 50)
    ranks = {value: rank for rank, value in enumerate(sorted(values), 1)}
    least = 10 * 11 / 2
    extreme = [
        abs(sum(ranks[values[place]] for place in chosen) - least - 50) >= seen
        for chosen in combinations(range(20), 10)
    ]
    # Ten values a group are the fewest that it is used for; it errs to the safe side.
    exact = sum(extreme) / len(extreme)
    assert exact <= larger(first, second)[0] <= 1.3 * exact


def test_equal_values_and_empty_groups_say_nothing() -> None:
    assert larger([3.0] * 20, [3.0] * 20) == (1.0, 0.5)
    assert larger([], [1.0]) == (1.0, 0.5)
    assert more_often(0, 0, 3, 5) == 1.0


def test_rates_of_the_published_example() -> None:
    # Benjamini and Hochberg (1995), 3.3: of fifteen hypotheses the first four are rejected at 0.05.
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719]
    p_values += [0.6528, 0.7590, 1.0]
    rates = false_discovery_rates(p_values)
    assert sum(rate <= 0.05 for rate in rates) == 4
    assert rates[3] == pytest.approx(0.0095 * 15 / 4)
    assert rates == sorted(rates)
    assert false_discovery_rates(p_values[::-1]) == rates[::-1]
