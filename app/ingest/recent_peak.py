"""The most of something at once a moment ago."""

from __future__ import annotations

import time
from collections.abc import Callable

_PERIOD_S = 0.5


class RecentPeak:
    """The largest count noted during the last half second to second; 1 where none was noted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = clock()
        self._now = self._before = 0

    def note(self, count: int) -> None:
        """Takes one count into account."""
        self._move_on()
        self._now = max(self._now, count)

    def value(self) -> int:
        self._move_on()
        return max(self._now, self._before, 1)

    def _move_on(self) -> None:
        periods = (self._clock() - self._began_s) // _PERIOD_S
        if periods >= 1:
            self._before = self._now if periods == 1 else 0
            self._now = 0
            self._began_s += periods * _PERIOD_S
