"""The one crossing from the event loop to analyses: threads, deadline, interrupt, cache.

Promises: at most `threads` analyses run at once and only so many wait; equal questions asked at the same time are
answered by one run; a query that nobody waits for any more is interrupted; results are kept until spans change.

Spans of the live dataset change with every commit. Its reports may therefore be a little old, in proportion to what
they cost (see `_allowed_age_s`), say so, and are made anew in the background while somebody looks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

from analysis.errors import QueryInterrupted
from analysis.span import Window
from app.measuring.query_times import QueryStats, QueryTimes
from app.store.base import LIVE, Store, StoreBusy

T = TypeVar("T")
logger = logging.getLogger(__name__)
_KEPT_REPORTS = 128
_KEPT_ROWS = 200_000
"""Of all kept reports, about 150 MB: a trace of 100,000 spans has that many rows for each span selected in it."""
_MAX_UNDER_WAY = 64
_OVERDUE_S = 1.0
"""Python between two queries may run on past the deadline: this much later the reader is told all the same."""
_OLDEST_S = 10.0
_AGE_OF_COST = 20.0
_MAX_REFRESHES = 2
"""Reports made anew at once for readers who have an older one: the other threads are for who waits."""


@dataclass(frozen=True)
class Answer(Generic[T]):
    """A report, the window it is of, and when its spans were read."""

    report: T
    window: Window
    as_of_ns: int


@dataclass(frozen=True)
class _Question:
    function: Callable[..., Any]
    dataset_id: int
    window: Window | str
    """The window, or the name of one that moves on with the clock and with new spans."""
    arguments: tuple[object, ...]
    version: int
    """Of the dataset; of the live one only what deletions change, so that its reports outlive new spans."""


@dataclass(frozen=True)
class _Kept:
    """A report with the version of its spans and what it took."""

    answer: Answer[Any]
    version: int
    began_s: float
    took_s: float


@dataclass(eq=False)
class _Run:
    """One analysis under way, with how many wait for it."""

    waiting: int = 0
    interrupt: Callable[[], None] | None = None
    abandoned: threading.Event = field(default_factory=threading.Event)
    task: asyncio.Task[Any] = field(init=False)


class Queries:
    """Runs analyses over a store; make it inside the event loop that asks, and close it there."""

    def __init__(
        self, store: Store, threads: int, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._clock = clock
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(threads, "spanwise-query")
        self._kept: OrderedDict[_Question, _Kept] = OrderedDict()
        self._kept_rows = 0
        self._refreshes = 0
        self._under_way: dict[_Question, _Run] = {}
        self._times = QueryTimes()

    def stats(self) -> QueryStats:
        """How long analyses take, and what runs and waits now."""
        return self._times.stats()

    async def run(self, function: Callable[..., T], dataset_id: int, window: Window, *arguments: object) -> T:
        """`function(spans, *arguments)` over the dataset and window; arguments must be hashable.

        Raises QueryInterrupted at the deadline, StoreBusy where too much waits already, and what the function raises.
        When its caller is cancelled and nobody else waits for the same report, the query is interrupted.
        """
        return (await self.answer(function, dataset_id, window, *arguments)).report

    async def answer(
        self, function: Callable[..., T], dataset_id: int, window: Window, *arguments: object, moving: str = ""
    ) -> Answer[T]:
        """As `run`, with the window and time that the report is of.

        `moving` names a window of the live dataset that ends now, such as `1h`: equal names share a report while it is
        young enough, although the window has moved on.
        """
        now_ns, version = time.time_ns(), self._store.version(dataset_id)
        if dataset_id == LIVE:
            question = _Question(function, LIVE, moving or window, arguments, self._store.deletions(LIVE))
        else:
            question = _Question(function, dataset_id, window, arguments, version)
        kept: _Kept | None = self._kept.get(question)
        answer: Answer[T]
        if kept is not None and kept.version == version and kept.answer.window == window:
            self._kept.move_to_end(question)
            return replace(kept.answer, as_of_ns=now_ns)
        if kept is not None and self._clock() - kept.began_s <= _allowed_age_s(kept.took_s):
            self._kept.move_to_end(question)
            self._refresh(question, kept, window)
            answer = kept.answer
            return answer
        run = self._under_way.get(question) or self._started(question, window)
        run.waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s + _OVERDUE_S):
                answer = await asyncio.shield(run.task)
                return answer
        except TimeoutError:
            raise QueryInterrupted(f"the query was stopped after {self._timeout_s:g} s") from None
        finally:
            run.waiting -= 1
            if not run.waiting and not run.task.done():
                self._abandon(question, run)

    def _refresh(self, question: _Question, kept: _Kept, window: Window) -> None:
        """Makes a report anew that is half as old as it may be, so that the next reader need not wait."""
        if self._clock() - kept.began_s < _allowed_age_s(kept.took_s) / 2 or question in self._under_way:
            return
        if self._refreshes >= _MAX_REFRESHES or len(self._under_way) >= _MAX_UNDER_WAY:
            return
        run = self._started(question, window)
        # It waits for itself: readers who join and leave do not end it. Its time limit does.
        run.waiting = 1
        self._refreshes += 1

        def done(task: asyncio.Task[Any]) -> None:
            run.waiting -= 1
            self._refreshes -= 1
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.warning("a report could not be made anew: %s", error)

        run.task.add_done_callback(done)

    async def close(self) -> None:
        """Interrupts what runs and waits for it; the store may be closed afterwards."""
        runs = list(self._under_way.items())
        for question, run in runs:
            self._abandon(question, run)
        await asyncio.gather(*(run.task for _, run in runs), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _started(self, question: _Question, window: Window) -> _Run:
        if len(self._under_way) >= _MAX_UNDER_WAY:
            raise StoreBusy(f"{_MAX_UNDER_WAY} queries are waiting already")
        run = _Run()
        run.task = asyncio.create_task(self._answered(question, window, run))
        self._under_way[question] = run
        return run

    async def _answered(self, question: _Question, window: Window, run: _Run) -> Answer[Any]:
        try:
            with self._times.asked(question.function.__name__):
                loop = asyncio.get_running_loop()
                made = await loop.run_in_executor(self._threads, self._read, question, window, run)
            self._keep(question, made)
            return made.answer
        finally:
            if self._under_way.get(question) is run:
                del self._under_way[question]

    def _keep(self, question: _Question, made: _Kept) -> None:
        rows = _rows(made.answer.report)
        if rows > _KEPT_ROWS:
            return
        before = self._kept.pop(question, None)
        self._kept_rows += rows - (_rows(before.answer.report) if before else 0)
        self._kept[question] = made
        while len(self._kept) > _KEPT_REPORTS or self._kept_rows > _KEPT_ROWS:
            self._kept_rows -= _rows(self._kept.popitem(last=False)[1].answer.report)

    def _read(self, question: _Question, window: Window, run: _Run) -> _Kept:
        if run.abandoned.is_set():
            raise QueryInterrupted("nobody waits for this report any more")
        # Before the snapshot: a report is never taken for newer than its spans.
        version, as_of_ns, began_s = self._store.version(question.dataset_id), time.time_ns(), self._clock()
        with self._times.running(), self._store.read(question.dataset_id, window, self._timeout_s) as spans:
            run.interrupt = getattr(spans, "interrupt", None)
            if run.abandoned.is_set() and run.interrupt:
                run.interrupt()
            try:
                report = question.function(spans, *question.arguments)
            finally:
                run.interrupt = None
        return _Kept(Answer(report, window, as_of_ns), version, began_s, self._clock() - began_s)

    def _abandon(self, question: _Question, run: _Run) -> None:
        """Ends a run that nobody waits for; a later question starts a new one."""
        run.abandoned.set()
        if interrupt := run.interrupt:
            interrupt()
        if self._under_way.get(question) is run:
            del self._under_way[question]
        # Its outcome is of no interest, but must be looked at: an exception that nobody reads is logged as lost.
        run.task.add_done_callback(lambda task: task.cancelled() or task.exception())


def _allowed_age_s(took_s: float) -> float:
    """How old a report of changing spans may be: 20 times what it took, but 10 s at most.

    One that takes more than 3.3 s may be three times as old as that: it is made anew at half of its age, and the next
    one must be ready before the last one is too old.
    """
    return min(_AGE_OF_COST * took_s, max(_OLDEST_S, 3 * took_s))


def _rows(report: object) -> int:
    """How many rows the tables of a report have together: what its size grows with."""
    if not is_dataclass(report):
        return 0
    tables = (getattr(report, each.name) for each in fields(report))
    return sum(len(table) for table in tables if isinstance(table, tuple | list | dict))
