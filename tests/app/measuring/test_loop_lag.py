"""A loop that is blocked shows, and the sampling task ends when it is told to."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from starlette.applications import Starlette

from app.main import create_app, running
from app.measuring.loop_lag import INTERVAL_S, LoopLag
from app.settings import settings_from


def test_a_blocked_loop_is_seen_with_its_length() -> None:
    async def scenario() -> LoopLag:
        interval_s = 0.05
        lag = LoopLag(interval_s)
        task = asyncio.create_task(lag.run())
        await asyncio.sleep(3.5 * interval_s)
        time.sleep(0.2 + interval_s)  # noqa: ASYNC251 - the fault to be seen
        await asyncio.sleep(1.5 * interval_s)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return lag

    summary = asyncio.run(scenario()).summary()
    assert summary.max_ns >= 200_000_000
    assert summary.p99_ns >= 200_000_000
    assert 3 <= summary.count <= 6
    assert summary.p50_ns < summary.max_ns


def test_the_application_owns_the_task(tmp_path: Path) -> None:
    data = str(tmp_path / "spanwise.duckdb")
    app = create_app(settings_from({"HOME": "/h"}, {"data": data, "grpc_port": "0", "decode_processes": "1"}))

    async def scenario() -> list[asyncio.Task[object]]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(running(app))
            await asyncio.sleep(2 * INTERVAL_S)
            assert app.state.loop_lag.summary().count >= 1
        return [task for task in asyncio.all_tasks() if "LoopLag" in repr(task)]

    assert asyncio.run(scenario()) == []


def test_what_it_fails_with_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(self: LoopLag) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(LoopLag, "run", failing)
    data = str(tmp_path / "spanwise.duckdb")
    app: Starlette = create_app(
        settings_from({"HOME": "/h"}, {"data": data, "grpc_port": "0", "decode_processes": "1"})
    )

    async def scenario() -> None:
        async with running(app):
            await asyncio.sleep(0)

    with pytest.raises(ZeroDivisionError, match="a bug"):
        asyncio.run(scenario())
