"""A jump of a density at a round duration: what a sampler that keeps slow requests leaves behind.

Method: as in tests for manipulation of a running variable (McCrary, J. Econometrics 2008) the density just above a
threshold is held against the density just below. Durations have smooth densities, sharp lower ends, and spikes at
timeouts; so the density must be level on either side of the threshold, and the jump right at it, large and certain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.quantiles import Integers

THRESHOLDS_MS = tuple(
    sorted(
        head * scale
        for scale in (10, 100, 1_000, 10_000)
        for head in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 8)
        if 50 <= head * scale <= 30_000
    )
)
"""What people write as the limit of slow."""
MIN_RATIO = 3.0
"""A sampler that keeps more than a third of the rest moves no percentile by much."""
MIN_ABOVE = 20
MIN_BELOW = 5
"""Without anything just below it would be the lower end of a mode, not a jump."""
MAX_P = 1e-6
LEVEL = 1.5
"""By how much the bin above a threshold may exceed those below where nothing jumps."""
MAX_LOOKED_AT = 200_000

_BIN, _FINE_A_BIN = 1.05, 20
"""Bins of 5 % of the duration, of 20 fine ones each."""
_FINE = math.log(_BIN) / _FINE_A_BIN
_BELOW, _ABOVE = 8, 4
_PARTS, _MIN_PART = 10, 10
"""The bin above is parted down to 0.5 % of the duration, as far as ten requests are left in a part."""
_LOWEST_NS = 50e6 * _BIN**-10
_FINE_BINS = math.ceil(math.log(30e9 * _BIN**6 / _LOWEST_NS) / _FINE)


@dataclass(frozen=True)
class DensityStep:
    """Requests just above a round duration are many times as frequent as just below."""

    threshold_ns: int
    above: int
    """Requests that took up to 5 % longer."""
    below: int
    """Up to 5 % shorter."""


def density_step(durations_ns: Integers) -> DensityStep | None:
    """The lowest of the round durations at which the density of requests jumps up, None where it nowhere does.

    Of more than 200,000 requests every second, third … is looked at; the step's counts are of all.
    """
    looked_at = durations_ns[:: len(durations_ns) // MAX_LOOKED_AT + 1]
    if len(looked_at) < MIN_ABOVE + MIN_BELOW:
        return None
    # By logarithm, 10 ns a request: a search among the edges of all bins took 54 ns.
    places = np.log(looked_at.astype(np.float32) + 1) * np.float32(1 / _FINE) - math.log(_LOWEST_NS) / _FINE
    fine = np.bincount(np.clip(places, -1, _FINE_BINS).astype(np.int64) + 1, minlength=_FINE_BINS + 2)
    ends = fine.cumsum()
    for threshold_ms in THRESHOLDS_MS:
        at = math.log(threshold_ms * 1e6 / _LOWEST_NS) / _FINE
        # The fine bin that the threshold cuts is on neither side; place 0 is what is below all bins.
        below = _counts(ends, math.floor(at), -_BELOW)
        above = _counts(ends, math.floor(at) + 1, _ABOVE)
        if _jumps(below, above) and _at_once(fine, math.floor(at), above[0]):
            return _step(durations_ns, round(threshold_ms * 1e6))
    return None


def _step(durations_ns: Integers, threshold_ns: int) -> DensityStep:
    """With the counts of all requests, also where not all of them were looked at."""
    edges = [threshold_ns / _BIN, threshold_ns, threshold_ns * _BIN]
    below, above = np.diff([int((durations_ns < edge).sum()) for edge in edges])
    return DensityStep(threshold_ns, int(above), int(below))


def _counts(ends: Integers, first: int, bins: int) -> list[int]:
    """Of so many bins from a fine one on, or as many before it, in order of duration."""
    steps = range(bins, 1) if bins < 0 else range(bins + 1)
    return [int(count) for count in np.diff(ends[[first + step * _FINE_A_BIN for step in steps]])]


def _jumps(below: Sequence[int], above: Sequence[int]) -> bool:
    """Whether counts in bins up to a threshold (nearest last) and from it on (nearest first) are those of a jump."""
    first, second, third, fourth = above
    if first < MIN_ABOVE or sum(below) < MIN_BELOW:
        return False
    # Neither a spike, which does not go on, nor the rising side of a mode.
    if second < 0.4 * first or third + fourth < 0.3 * (first + second) or second > 1.6 * first:
        return False
    near, before = sum(below[-2:]), sum(below[:-2])
    if near / 2 > 2 * before / (_BELOW - 2) + 3 * math.sqrt(near + 1):
        return False
    expected = max(near / 2, before / (_BELOW - 2))
    return first >= MIN_RATIO * expected and _chance(first, first + near, LEVEL / (LEVEL + 2)) <= MAX_P


def _chance(count: int, of: int, share: float) -> float:
    """At most the chance of so many or more (Chernoff), where each is one with a probability of `share`."""
    seen = count / of
    if seen <= share:
        return 1.0
    apart = seen * math.log(seen / share) + ((1 - seen) * math.log((1 - seen) / (1 - share)) if seen < 1 else 0.0)
    return math.exp(-of * apart)


def _at_once(fine: Integers, cut: int, above: int) -> bool:
    """Whether the density jumps right at the threshold: the lower end of a mode that is near it does so elsewhere."""
    size = _FINE_A_BIN // min(_PARTS, above // _MIN_PART)
    before = int(fine[cut + 1 - size : cut + 1].sum())
    bins = [int(fine[first : first + size].sum()) for first in range(cut + 2, cut + 2 + _FINE_A_BIN, size)]
    level = above * size / _FINE_A_BIN
    return before <= level / 2 and bins[0] >= level / 2 and max(bins) <= 2 * level
