"""The one crossing from the event loop to analyses: threads, deadline, interrupt, cache.

Promises: at most `threads` analyses run at once and only so many wait; equal questions asked at the same time are
answered by one run; a query that nobody waits for any more is interrupted; results are kept until spans change.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from analysis.errors import QueryInterrupted
from analysis.span import Window
from app.measuring.query_times import QueryStats, QueryTimes
from app.store.base import Store, StoreBusy

T = TypeVar("T")
_KEPT_REPORTS = 128
_KEPT_ROWS = 200_000
"""Of all kept reports, about 150 MB: a trace of 100,000 spans has that many rows for each span selected in it."""
_MAX_UNDER_WAY = 64
_OVERDUE_S = 1.0
"""Python between two queries may run on past the deadline: this much later the reader is told all the same."""


@dataclass(frozen=True)
class _Question:
    function: Callable[..., Any]
    dataset_id: int
    window: Window
    arguments: tuple[object, ...]
    version: int


@dataclass(eq=False)
class _Run:
    """One analysis under way, with how many wait for it."""

    waiting: int = 0
    interrupt: Callable[[], None] | None = None
    abandoned: threading.Event = field(default_factory=threading.Event)
    task: asyncio.Task[Any] = field(init=False)


class Queries:
    """Runs analyses over a store; make it inside the event loop that asks, and close it there."""

    def __init__(self, store: Store, threads: int, timeout_s: float) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(threads, "spanwise-query")
        self._kept: OrderedDict[_Question, Any] = OrderedDict()
        self._kept_rows = 0
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
        question = _Question(function, dataset_id, window, arguments, self._store.version(dataset_id))
        if question in self._kept:
            self._kept.move_to_end(question)
            kept: T = self._kept[question]
            return kept
        run = self._under_way.get(question) or self._started(question)
        run.waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s + _OVERDUE_S):
                report: T = await asyncio.shield(run.task)
                return report
        except TimeoutError:
            raise QueryInterrupted(f"the query was stopped after {self._timeout_s:g} s") from None
        finally:
            run.waiting -= 1
            if not run.waiting and not run.task.done():
                self._abandon(question, run)

    async def close(self) -> None:
        """Interrupts what runs and waits for it; the store may be closed afterwards."""
        runs = list(self._under_way.items())
        for question, run in runs:
            self._abandon(question, run)
        await asyncio.gather(*(run.task for _, run in runs), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _started(self, question: _Question) -> _Run:
        if len(self._under_way) >= _MAX_UNDER_WAY:
            raise StoreBusy(f"{_MAX_UNDER_WAY} queries are waiting already")
        run = _Run()
        run.task = asyncio.create_task(self._answer(question, run))
        self._under_way[question] = run
        return run

    async def _answer(self, question: _Question, run: _Run) -> Any:
        try:
            with self._times.asked(question.function.__name__):
                report = await asyncio.get_running_loop().run_in_executor(self._threads, self._read, question, run)
            self._keep(question, report)
            return report
        finally:
            if self._under_way.get(question) is run:
                del self._under_way[question]

    def _keep(self, question: _Question, report: Any) -> None:
        if _rows(report) > _KEPT_ROWS:
            return
        self._kept_rows += _rows(report) - _rows(self._kept.pop(question, None))
        self._kept[question] = report
        while len(self._kept) > _KEPT_REPORTS or self._kept_rows > _KEPT_ROWS:
            self._kept_rows -= _rows(self._kept.popitem(last=False)[1])

    def _read(self, question: _Question, run: _Run) -> Any:
        if run.abandoned.is_set():
            raise QueryInterrupted("nobody waits for this report any more")
        with (
            self._times.running(),
            self._store.read(question.dataset_id, question.window, self._timeout_s) as spans,
        ):
            run.interrupt = getattr(spans, "interrupt", None)
            if run.abandoned.is_set() and run.interrupt:
                run.interrupt()
            try:
                return question.function(spans, *question.arguments)
            finally:
                run.interrupt = None

    def _abandon(self, question: _Question, run: _Run) -> None:
        """Ends a run that nobody waits for; a later question starts a new one."""
        run.abandoned.set()
        if interrupt := run.interrupt:
            interrupt()
        if self._under_way.get(question) is run:
            del self._under_way[question]
        # Its outcome is of no interest, but must be looked at: an exception that nobody reads is logged as lost.
        run.task.add_done_callback(lambda task: task.cancelled() or task.exception())


def _rows(report: object) -> int:
    """How many rows the tables of a report have together: what its size grows with."""
    if not is_dataclass(report):
        return 0
    tables = (getattr(report, each.name) for each in fields(report))
    return sum(len(table) for table in tables if isinstance(table, tuple | list | dict))
