"""Which spans of a batch are in a dataset already, mostly answered without a look into the store."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Times = npt.NDArray[np.int64]

RECENT_SPANS = 262_144
"""About 25 MB; at 5,000 spans/s the last 50 s, several times as long as an exporter goes on resending."""

_MAX_RANGES = 8


class RecentSpans:
    """The hashes of the spans stored last, and up to which start time older spans may be missing from them.

    Every stored span that starts after `complete_after_ns` is among the hashes, so a new span that starts after it is
    known or unknown for certain; only spans that start earlier need a look into the store. Senders send in the order
    of time, more or less, so those are few.
    """

    def __init__(self, complete_after_ns: int, limit: int = RECENT_SPANS) -> None:
        self.complete_after_ns = complete_after_ns
        self._limit = limit
        self._hashes: set[int] = set()
        self._groups: deque[tuple[Hashes, int]] = deque()

    def known(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Which of the hashes are recent."""
        seen, values = self._hashes, hashes.tolist()
        if seen.isdisjoint(values):
            return np.zeros(len(values), np.bool_)
        return np.fromiter((value in seen for value in values), np.bool_, len(values))

    def add(self, hashes: Hashes, starts: Times) -> None:
        """Remembers the spans of one committed transaction and forgets the oldest beyond the limit."""
        if not len(hashes):
            return
        self._groups.append((hashes, int(starts.max())))
        self._hashes.update(hashes.tolist())
        while len(self._hashes) > self._limit:
            forgotten, latest_ns = self._groups.popleft()
            self._hashes.difference_update(forgotten.tolist())
            self.complete_after_ns = max(self.complete_after_ns, latest_ns)


def first_of_each(hashes: Hashes) -> npt.NDArray[np.bool_]:
    """Marks the first of equal hashes."""
    mask = np.zeros(len(hashes), np.bool_)
    mask[np.unique(hashes, return_index=True)[1]] = True
    return mask


def time_ranges(starts: Times) -> list[tuple[int, int]]:
    """At most 8 closed ranges that hold all start times, cut at the widest gaps.

    One span with a wrong clock would else stretch the range that is searched over the whole store.
    """
    ordered = np.unique(starts)
    gaps = np.diff(ordered)
    widest = np.argsort(gaps, kind="stable")[::-1][: _MAX_RANGES - 1]
    cuts = np.sort(widest[gaps[widest] > 1_000_000_000])
    lows = np.concatenate([[0], cuts + 1])
    highs = np.concatenate([cuts, [len(ordered) - 1]])
    return [(int(ordered[low]), int(ordered[high])) for low, high in zip(lows, highs, strict=True)]
