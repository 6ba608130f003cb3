"""Queries off the loop: one run for equal questions, a deadline, an interrupt, a cache that new spans end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from analysis.errors import QueryInterrupted
from analysis.span import Spans, Window
from app.otlp.columns import Batch
from app.query import Queries
from app.store.base import LIVE, Store, StoreBusy
from tests.stored import Drawn

WINDOW = Window(0, 2**62)
ENDLESS = "select count(*) from range(1000000000) a, range(1000000000) b where a.range % 7 = b.range % 11"


class Clock:
    """Seconds that only a test lets pass."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def one_span(trace: int) -> Batch:
    drawn = Drawn()
    drawn.add("cart", "GET /", 0, 10, trace=trace)
    return drawn.batch()


def with_queries(
    store: Store,
    question: Callable[[Queries], Coroutine[Any, Any, Any]],
    timeout_s: float = 20,
    threads: int = 2,
    clock: Callable[[], float] = time.monotonic,
) -> Any:
    async def run() -> Any:
        queries = Queries(store, threads, timeout_s, clock)
        try:
            return await question(queries)
        finally:
            await queries.close()

    return asyncio.run(run())


def test_equal_questions_share_one_run_and_the_answer_is_kept_until_spans_change(store: Store) -> None:
    runs: list[int] = []
    dataset_id = store.import_dataset("a", "upload", "", "x", [one_span(1)]).dataset_id

    def count(spans: Spans, factor: int) -> int:
        runs.append(factor)
        time.sleep(0.1)
        return len(spans.rows("select 1 from spans")) + factor

    async def ask(queries: Queries) -> None:
        answers = await asyncio.gather(*(queries.run(count, dataset_id, WINDOW, factor) for factor in (1, 1, 1, 2)))
        assert answers == [2, 2, 2, 3]
        assert await queries.run(count, dataset_id, WINDOW, 1) == 2
        assert sorted(runs) == [1, 2]
        await asyncio.to_thread(store.append, dataset_id, [one_span(2)])
        assert await queries.run(count, dataset_id, WINDOW, 1) == 3
        assert sorted(runs) == [1, 1, 2]

    with_queries(store, ask)


def test_a_query_ends_at_its_deadline(store: Store) -> None:
    def endless(spans: Spans) -> object:
        return spans.rows(ENDLESS)

    async def ask(queries: Queries) -> None:
        began = time.monotonic()
        with pytest.raises(QueryInterrupted):
            await queries.run(endless, LIVE, WINDOW)
        assert time.monotonic() - began < 5

    with_queries(store, ask, timeout_s=0.3)


def test_a_query_that_nobody_waits_for_is_interrupted(store: Store) -> None:
    started, ended = threading.Event(), threading.Event()

    def endless(spans: Spans) -> object:
        started.set()
        try:
            return spans.rows(ENDLESS)
        finally:
            ended.set()

    async def ask(queries: Queries) -> None:
        first, second = (asyncio.create_task(queries.run(endless, LIVE, WINDOW)) for _ in range(2))
        await asyncio.to_thread(started.wait, 5)
        first.cancel()
        await asyncio.sleep(0.2)
        assert not ended.is_set()
        second.cancel()
        assert await asyncio.to_thread(ended.wait, 5)

    with_queries(store, ask)


def test_a_failure_is_the_callers_and_is_not_kept(store: Store) -> None:
    outcomes = iter([ZeroDivisionError("first"), None])

    def fails_once(spans: Spans) -> str:
        if error := next(outcomes):
            raise error
        return "fine"

    async def ask(queries: Queries) -> None:
        with pytest.raises(ZeroDivisionError):
            await queries.run(fails_once, LIVE, WINDOW)
        assert await queries.run(fails_once, LIVE, WINDOW) == "fine"

    with_queries(store, ask)


def test_too_many_waiting_questions_are_refused(store: Store) -> None:
    release = threading.Event()

    def wait(spans: Spans, number: int) -> int:
        release.wait(20)
        return number

    async def ask(queries: Queries) -> None:
        tasks = [asyncio.create_task(queries.run(wait, LIVE, WINDOW, number)) for number in range(64)]
        await asyncio.sleep(0.1)
        with pytest.raises(StoreBusy):
            await queries.run(wait, LIVE, WINDOW, 64)
        release.set()
        assert await asyncio.gather(*tasks) == list(range(64))

    with_queries(store, ask)


@dataclass(frozen=True)
class Wide:
    """A report of many rows."""

    rows: tuple[int, ...]


def test_kept_reports_are_bounded_in_rows(store: Store) -> None:
    runs: list[int] = []

    def wide(spans: Spans, rows: int, number: int) -> Wide:
        runs.append(number)
        return Wide((0,) * rows)

    async def ask(queries: Queries) -> None:
        for number in range(6):
            await queries.run(wide, LIVE, WINDOW, 60_000, number)
        for number in (5, 4, 3):
            await queries.run(wide, LIVE, WINDOW, 60_000, number)
        assert runs == [0, 1, 2, 3, 4, 5]
        await queries.run(wide, LIVE, WINDOW, 60_000, 0)
        assert runs[-1] == 0
        # One that is too large alone is answered, not kept, and pushes none out.
        assert len((await queries.run(wide, LIVE, WINDOW, 300_000, 7)).rows) == 300_000
        assert len((await queries.run(wide, LIVE, WINDOW, 10, 8)).rows) == 10
        await queries.run(wide, LIVE, WINDOW, 10, 8)
        await queries.run(wide, LIVE, WINDOW, 60_000, 0)
        assert runs[-2:] == [7, 8]

    with_queries(store, ask)


class Counting:
    """An analysis that counts spans, takes so many of the clock's seconds and can be held up."""

    def __init__(self, clock: Clock, took_s: float) -> None:
        self._clock, self._took_s = clock, took_s
        self.runs = 0
        self.free = threading.Event()
        self.free.set()
        self.fails = False

    def __call__(self, spans: Spans) -> int:
        self.runs += 1
        if self.fails:
            raise ZeroDivisionError("not this time")
        found = len(spans.rows("select 1 from spans"))
        self._clock.now_s += self._took_s
        assert self.free.wait(20)
        return found

    @property
    def __name__(self) -> str:
        return "counting"


async def until(holds: Callable[[], bool]) -> None:
    """Lets what runs in the background come to its end."""
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("nothing happened in 10 s")


@pytest.mark.parametrize(("took_s", "oldest_s"), [(0.01, 0.2), (0.25, 5.0), (1.0, 10.0), (3.0, 10.0), (8.0, 24.0)])
def test_a_live_report_is_no_older_than_its_cost_allows(store: Store, took_s: float, oldest_s: float) -> None:
    clock = Clock()
    count = Counting(clock, took_s)

    async def ask(queries: Queries) -> None:
        began_s = clock.now_s
        assert await queries.run(count, LIVE, WINDOW) == 0
        await asyncio.to_thread(store.append, LIVE, [one_span(1)])
        count.free.clear()
        clock.now_s = began_s + oldest_s * 0.999
        assert await queries.run(count, LIVE, WINDOW) == 0, "the last report at once, though a newer one is being made"
        clock.now_s = began_s + oldest_s * 1.001
        waits = asyncio.create_task(queries.run(count, LIVE, WINDOW))
        done, _ = await asyncio.wait([waits], timeout=0.1)
        assert not done, "too old to be shown: the reader waits for the new one"
        count.free.set()
        assert await waits == 1
        assert count.runs == 2, "the reader joins the run that was begun in the background"

    with_queries(store, ask, clock=clock)


def test_a_live_report_is_made_anew_beside_its_readers_and_only_while_there_are_some(store: Store) -> None:
    clock = Clock()
    count = Counting(clock, 1.0)

    async def ask(queries: Queries) -> None:
        began_s = clock.now_s
        await queries.run(count, LIVE, WINDOW)
        await asyncio.to_thread(store.append, LIVE, [one_span(1)])
        clock.now_s = began_s + 4.9
        assert await queries.run(count, LIVE, WINDOW) == 0
        await asyncio.sleep(0.05)
        assert count.runs == 1, "younger than half of what is allowed"
        clock.now_s = began_s + 5.1
        assert await queries.run(count, LIVE, WINDOW) == 0
        await until(lambda: count.runs == 2)
        await asyncio.sleep(0.05)
        assert await queries.run(count, LIVE, WINDOW) == 1
        clock.now_s += 1000
        await asyncio.sleep(0.05)
        assert count.runs == 2, "nobody looks"

    with_queries(store, ask, clock=clock)


def test_a_report_that_cannot_be_made_anew_is_told_once_it_is_too_old(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    count = Counting(clock, 1.0)

    async def ask(queries: Queries) -> None:
        began_s = clock.now_s
        await queries.run(count, LIVE, WINDOW)
        await asyncio.to_thread(store.append, LIVE, [one_span(1)])
        count.fails = True
        clock.now_s = began_s + 9
        assert await queries.run(count, LIVE, WINDOW) == 0
        await until(lambda: "not this time" in caplog.text)
        clock.now_s = began_s + 11
        with pytest.raises(ZeroDivisionError):
            await queries.run(count, LIVE, WINDOW)

    with_queries(store, ask, clock=clock)


def test_a_window_that_ends_now_is_one_question(store: Store) -> None:
    clock = Clock()
    count = Counting(clock, 1.0)
    first, later = Window(0, 2**61), Window(5, 2**61 + 5)

    async def ask(queries: Queries) -> None:
        answer = await queries.answer(count, LIVE, first, moving="1h")
        again = await queries.answer(count, LIVE, later, moving="1h")
        assert (again.window, again.as_of_ns, count.runs) == (first, answer.as_of_ns, 1)
        await queries.answer(count, LIVE, later)
        assert count.runs == 2, "a fixed window is its own"
        clock.now_s += 11
        assert (await queries.answer(count, LIVE, later, moving="1h")).window == later

    with_queries(store, ask, clock=clock)


def test_a_live_report_of_unchanged_spans_is_as_of_now_and_kept(store: Store) -> None:
    clock = Clock()
    count = Counting(clock, 1.0)

    async def ask(queries: Queries) -> None:
        first = await queries.answer(count, LIVE, WINDOW)
        clock.now_s += 1000
        asked_ns = time.time_ns()
        again = await queries.answer(count, LIVE, WINDOW)
        assert first.as_of_ns <= asked_ns <= again.as_of_ns <= time.time_ns()
        assert count.runs == 1

    with_queries(store, ask, clock=clock)


def test_no_report_outlives_the_spans_that_were_deleted(store: Store) -> None:
    clock = Clock()
    count = Counting(clock, 1.0)
    store.append(LIVE, [one_span(1)])

    async def ask(queries: Queries) -> None:
        assert await queries.run(count, LIVE, WINDOW) == 1
        await asyncio.to_thread(store.delete_dataset, LIVE)
        assert await queries.run(count, LIVE, WINDOW) == 0
        # One that was begun before and ends after the deletion is not kept for later readers either.
        await asyncio.to_thread(store.append, LIVE, [one_span(2)])
        clock.now_s += 100
        count.free.clear()
        runs = count.runs
        early = asyncio.create_task(queries.run(count, LIVE, WINDOW))
        await until(lambda: count.runs > runs)
        await asyncio.sleep(0.05)
        await asyncio.to_thread(store.delete_dataset, LIVE)
        count.free.set()
        assert await early == 1
        assert await queries.run(count, LIVE, WINDOW) == 0

    with_queries(store, ask, clock=clock)
