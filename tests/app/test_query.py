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
from app.query import Queries
from app.store.base import LIVE, Store, StoreBusy
from tests.stored import Drawn

WINDOW = Window(0, 2**62)
ENDLESS = "select count(*) from range(1000000000) a, range(1000000000) b where a.range % 7 = b.range % 11"


def with_queries(
    store: Store, question: Callable[[Queries], Coroutine[Any, Any, Any]], timeout_s: float = 20, threads: int = 2
) -> Any:
    async def run() -> Any:
        queries = Queries(store, threads, timeout_s)
        try:
            return await question(queries)
        finally:
            await queries.close()

    return asyncio.run(run())


def test_equal_questions_share_one_run_and_the_answer_is_kept(store: Store) -> None:
    runs: list[int] = []

    def count(spans: Spans, factor: int) -> int:
        runs.append(factor)
        time.sleep(0.1)
        return len(spans.rows("select 1 from spans")) + factor

    async def ask(queries: Queries) -> None:
        answers = await asyncio.gather(*(queries.run(count, LIVE, WINDOW, factor) for factor in (1, 1, 1, 2)))
        assert answers == [1, 1, 1, 2]
        assert await queries.run(count, LIVE, WINDOW, 1) == 1
        assert sorted(runs) == [1, 2]
        drawn = Drawn()
        drawn.add("cart", "GET /", 0, 10)
        await asyncio.to_thread(store.append, LIVE, [drawn.batch()])
        assert await queries.run(count, LIVE, WINDOW, 1) == 2
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
