"""Which spans of a batch are in a dataset already, mostly answered without a look into the store."""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Times = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

RECENT_SPANS = 1_048_576
"""At 5,000 spans/s more than the last three minutes, many times as long as an exporter goes on resending."""

_MAX_RANGES = 8

_FACTOR = np.uint64(secrets.randbits(64) | 1)


class HashSet:
    """A set of hashes other than 0 in one array, by open addressing: takes whole columns at a time.

    A Python set took 0.5 µs a span for lookup, adding and forgetting together, this 0.05.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.count = 0
        self._slots: Hashes = np.zeros(0, np.uint64)
        self._allot(16_384)

    def known(self, hashes: Hashes) -> Mask:
        """Which of the hashes are in the set."""
        found = np.zeros(len(hashes), np.bool_)
        if not self.count:
            return found
        left, places = np.arange(len(hashes)), self._places(hashes)
        while len(left):
            slots = self._slots[places]
            equal = slots == hashes[left]
            found[left[equal]] = True
            further = ~equal & (slots != 0)
            left, places = left[further], places[further] + 1 & self._last
        return found

    def add(self, hashes: Hashes) -> None:
        """Adds hashes that are not in the set and differ from one another."""
        count = self.count + len(hashes)
        if 2 * count > len(self._slots):
            # Small until it has to be large; at the limit half full.
            self._allot(4 * count if 2 * count <= self._limit else max(2 * count, 2 * self._limit))
        self.count = count
        self._put(hashes)

    def _allot(self, slots: int) -> None:
        old = self._slots[self._slots != 0]
        bits = (slots - 1).bit_length()
        self._slots = np.zeros(1 << bits, np.uint64)
        self._last, self._shift = len(self._slots) - 1, np.uint64(64 - bits)
        self._put(old)

    def _put(self, hashes: Hashes) -> None:
        places = self._places(hashes)
        while len(hashes):
            free = self._slots[places] == 0
            # Of two that want the same slot the later one gets it and the other goes on.
            self._slots[places[free]] = hashes[free]
            left = self._slots[places] != hashes
            hashes, places = hashes[left], places[left] + 1 & self._last

    def _places(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """Multiplicative hashing (Knuth 6.4): with a secret factor nobody can make spans that crowd in one place."""
        return (hashes * _FACTOR >> self._shift).astype(np.int64)


class RecentSpans:
    """The hashes of the spans stored last, and up to which start time older spans may be missing from them.

    Every stored span that starts after `complete_after_ns` is among the hashes, so a new span that starts after it is
    known or unknown for certain; only spans that start earlier need a look into the store. Senders send in the order
    of time, more or less, so those are few. Hashes are kept in two generations of `limit`: when the younger is full it
    becomes the older one, and what that held is forgotten.
    """

    def __init__(self, complete_after_ns: int, limit: int = RECENT_SPANS) -> None:
        self.complete_after_ns = complete_after_ns
        self._limit = limit
        self._young, self._old = HashSet(limit), HashSet(limit)
        self._young_latest_ns = self._old_latest_ns = -1

    def known(self, hashes: Hashes) -> Mask:
        """Which of the hashes are recent."""
        return self._young.known(hashes) | self._old.known(hashes)

    def add(self, hashes: Hashes, starts: Times) -> None:
        """Remembers the spans of one committed transaction, none of which is known, and forgets beyond the limit."""
        if not len(hashes):
            return
        if self._young.count + len(hashes) > self._limit and self._young.count:
            self.complete_after_ns = max(self.complete_after_ns, self._old_latest_ns)
            self._old, self._old_latest_ns = self._young, self._young_latest_ns
            self._young, self._young_latest_ns = HashSet(self._limit), -1
        self._young.add(hashes)
        self._young_latest_ns = max(self._young_latest_ns, int(starts.max()))


def first_of_each(hashes: Hashes) -> Mask:
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
