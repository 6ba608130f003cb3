"""Whether two groups differ by more than chance, and how many of many such answers to believe."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def more_often(count: int, of: int, other_count: int, of_other: int) -> float:
    """One-sided p of Fisher's exact test: how likely a first group has at least so many by chance alone."""
    total, marked = of + of_other, count + other_count
    if not of or not of_other or not marked:
        return 1.0
    log_all = _log_choose(total, of)
    terms = (
        _log_choose(marked, number) + _log_choose(total - marked, of - number) - log_all
        for number in range(count, min(of, marked) + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def _log_choose(total: int, chosen: int) -> float:
    if not 0 <= chosen <= total:
        return -math.inf
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def larger(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """(p, share): two-sided p of the Mann-Whitney test by its normal approximation with ties, and how often a value of
    the first group is larger than one of the second, equal ones counted half.

    The approximation is good from about ten values a group on.
    """
    count, other = len(first), len(second)
    if not count or not other:
        return 1.0, 0.5
    values, where, sizes = np.unique(np.concatenate([first, second]), return_inverse=True, return_counts=True)
    ranks = np.cumsum(sizes) - (sizes - 1) / 2
    above = float(ranks[where[:count]].sum()) - count * (count + 1) / 2
    total = count + other
    ties = float((sizes.astype(np.float64) ** 3 - sizes).sum())
    variance = count * other / 12 * (total + 1 - ties / (total * (total - 1)))
    if len(values) == 1 or variance <= 0:
        return 1.0, 0.5
    middle = count * other / 2
    z = max(0.0, abs(above - middle) - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2)), above / (count * other)


def false_discovery_rates(p_values: Sequence[float]) -> list[float]:
    """For each p the share of false answers to expect among all at least as good (Benjamini and Hochberg, 1995)."""
    count = len(p_values)
    order = sorted(range(count), key=lambda position: -p_values[position])
    rates = [1.0] * count
    least = 1.0
    for above, position in enumerate(order):
        least = min(least, p_values[position] * count / (count - above))
        rates[position] = least
    return rates
