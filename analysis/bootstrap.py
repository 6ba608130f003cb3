"""Bootstrap draws of requests in blocks of neighbours in time.

Requests that follow one another share a busy pool or a slow minute: drawn one by one, their means look more certain
than they are. Method: circular block bootstrap (Politis, Romano 1992; Künsch 1989).
"""

from __future__ import annotations

import math

import numpy as np

Times = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Places = np.ndarray[tuple[int, int], np.dtype[np.int64]]

_LENGTH = 0.4
"""Exponent of the length of a block. Of 300 requests in bursts of eight the interval of a mean held the truth in 73 %
of simulations, in 30 % one by one, and in 94 % without bursts. With 0.5 it was 80 %, and of 40 requests without bursts
86 % instead of 90."""


def block_places(random: np.random.Generator, count: int, draws: int) -> Places:
    """Places of `count` requests in order of time, at least as many in each of the draws, whole blocks of neighbours.

    The last and the first are neighbours too, so that each has the same chance.
    """
    length = round(count**_LENGTH)
    first = random.integers(0, count, (draws, math.ceil(count / length)))
    places: Places = ((first[:, :, None] + np.arange(length)) % count).reshape(draws, -1)
    return places


def block_times(random: np.random.Generator, count: int, draws: int) -> Times:
    """How often each of `count` requests in order of time is drawn, in each of the draws; they add up to `count`."""
    places = block_places(random, count, draws)
    rows = np.arange(draws)[:, None] * count
    times = np.bincount((places + rows).ravel(), minlength=draws * count).reshape(draws, count)
    return np.asarray(times * (count / places.shape[1]), dtype=np.float64)
