"""How long analyses take, by the name of the analysis, and how many run and wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from analysis.errors import NotFound, QueryInterrupted
from app.measuring.durations import Durations, DurationSummary

WINDOW_S = 600


@dataclass(frozen=True)
class AnalysisTimes:
    """One analysis: durations of the runs that gave a report, from the question on; failures since the start."""

    name: str
    durations: DurationSummary
    interrupted: int
    """Stopped at the time limit, or because nobody waited for them any more."""
    failed: int


@dataclass(frozen=True)
class QueryStats:
    """What runs now, and every analysis that was asked for, the slowest first."""

    running: int
    waiting: int
    analyses: tuple[AnalysisTimes, ...]


class _Times:
    def __init__(self) -> None:
        self.durations = Durations(WINDOW_S)
        self.interrupted = self.failed = 0


class QueryTimes:
    """The numbers behind `QueryStats`; any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[str, _Times] = {}
        self._asked = self._running = 0

    @contextmanager
    def asked(self, name: str) -> Iterator[None]:
        """Around one run from its question to its report; names are those of functions, so there are few."""
        began_ns = time.monotonic_ns()
        with self._lock:
            times = self._times.setdefault(name, _Times())
            self._asked += 1
        interrupted = failed = 0
        try:
            yield
        except NotFound:
            # An answer like any other: there is no such thing.
            raise
        except QueryInterrupted:
            interrupted = 1
            raise
        except Exception:
            failed = 1
            raise
        finally:
            with self._lock:
                self._asked -= 1
                times.interrupted += interrupted
                times.failed += failed
                if not (interrupted or failed):
                    times.durations.add(time.monotonic_ns() - began_ns)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around what a thread does for one run."""
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def stats(self) -> QueryStats:
        with self._lock:
            analyses = [
                AnalysisTimes(name, times.durations.summary(), times.interrupted, times.failed)
                for name, times in self._times.items()
            ]
            analyses.sort(key=lambda each: (-each.durations.p99_ns, each.name))
            return QueryStats(self._running, max(self._asked - self._running, 0), tuple(analyses))
