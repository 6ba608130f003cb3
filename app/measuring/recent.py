"""What happened in the last minutes, second by second: exact counts in bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class CountSeries:
    """Counts in equal steps up to now, oldest first; the last step holds the second that is still running."""

    step_s: int
    start_ns: tuple[int, ...]
    counts: Mapping[str, tuple[int, ...]]

    @property
    def window_s(self) -> int:
        return self.step_s * len(self.start_ns)

    def total(self, name: str) -> int:
        return sum(self.counts[name])

    def since(self, instant_ns: int, at_least: int) -> CountSeries:
        """The steps that end after the instant, and never less than so many."""
        step_ns = self.step_s * _SECOND_NS
        first = sum(start + step_ns <= instant_ns for start in self.start_ns)
        first = max(min(first, len(self.start_ns) - at_least), 0)
        counts = {name: each[first:] for name, each in self.counts.items()}
        return CountSeries(self.step_s, self.start_ns[first:], counts)


class RecentCounts:
    """Named counts of each of the last `seconds` seconds; the caller holds a lock."""

    def __init__(self, names: tuple[str, ...], seconds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._places = {name: place for place, name in enumerate(names)}
        self._seconds = seconds
        self._clock = clock
        self._kept: deque[tuple[int, list[int]]] = deque(maxlen=seconds)

    def add(self, **counts: int) -> None:
        second = int(self._clock())
        if not self._kept or self._kept[-1][0] != second:
            self._kept.append((second, [0] * len(self._places)))
        row = self._kept[-1][1]
        for name, count in counts.items():
            row[self._places[name]] += count

    def series(self, step_s: int, now_ns: int) -> CountSeries:
        """All of the kept seconds in steps; `now_ns` is the time of day that goes with now."""
        steps = self._seconds // step_s
        table = [[0] * steps for _ in self._places]
        first = int(self._clock()) - steps * step_s + 1
        for second, row in self._kept:
            if second < first:
                continue
            for place, count in enumerate(row):
                table[place][(second - first) // step_s] += count
        end_ns = (now_ns // _SECOND_NS + 1) * _SECOND_NS
        starts = tuple(end_ns - (steps - step) * step_s * _SECOND_NS for step in range(steps))
        return CountSeries(step_s, starts, {name: tuple(table[place]) for name, place in self._places.items()})
