"""How long what is under way may still take once the server was asked to stop."""

from __future__ import annotations

import time


class Grace:
    """One span of time that all parts of a stop share, from the moment at which it was asked for."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: float | None = None

    @property
    def begun(self) -> bool:
        return self._until is not None

    def begin(self) -> None:
        """The time runs from now on, if it does not run yet."""
        if self._until is None:
            self._until = time.monotonic() + self._seconds

    def end(self) -> None:
        """Nothing is left."""
        self._until = time.monotonic()

    def left_s(self) -> float:
        """What is left, 0 at the least; asking begins it."""
        self.begin()
        assert self._until is not None
        return max(0.0, self._until - time.monotonic())
