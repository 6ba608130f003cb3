"""Analyses are counted by name and outcome, through the queries that run them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest

from analysis.errors import NotFound, QueryInterrupted
from app.measuring.query_times import QueryTimes
from app.query import Queries
from app.store.base import LIVE, Store
from tests.app.spans_made import ALL


def test_outcomes_are_told_apart() -> None:
    times = QueryTimes()
    for error in (None, NotFound("nothing"), QueryInterrupted("late"), ZeroDivisionError(), ZeroDivisionError()):
        with suppress(NotFound, QueryInterrupted, ZeroDivisionError), times.asked("report"):
            if error:
                raise error
    [found] = times.stats().analyses
    assert (found.name, found.durations.count, found.interrupted, found.failed) == ("report", 2, 1, 2)
    assert (times.stats().running, times.stats().waiting) == (0, 0)


def test_queries_tell_what_runs_waits_and_took_how_long(store: Store) -> None:
    go_on, began = threading.Event(), threading.Event()

    def slow(spans: Any, number: int) -> int:
        began.set()
        go_on.wait(20)
        return number

    def broken(spans: Any) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        queries = Queries(store, 1, 20)
        asked = [asyncio.create_task(queries.run(slow, LIVE, ALL, number)) for number in range(3)]
        await asyncio.to_thread(began.wait, 20)
        stats = queries.stats()
        assert (stats.running, stats.waiting) == (1, 2)
        go_on.set()
        await asyncio.gather(*asked)
        with pytest.raises(ZeroDivisionError):
            await queries.run(broken, LIVE, ALL)
        await queries.run(slow, LIVE, ALL, 1)
        stats = queries.stats()
        await queries.close()
        assert (stats.running, stats.waiting) == (0, 0)
        by_name = {each.name: each for each in stats.analyses}
        assert (by_name["slow"].durations.count, by_name["slow"].failed) == (3, 0), "the fourth was kept"
        assert (by_name["broken"].durations.count, by_name["broken"].failed) == (0, 1)

    asyncio.run(scenario())
