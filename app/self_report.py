"""What the server knows about itself, gathered once: the ingest page, `/api/ingest` and `/metrics` show the same."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.ingest.ingest import Ingest
from app.ingest.stats import IngestStats
from app.measuring.durations import DurationSummary
from app.measuring.loop_lag import LoopLag
from app.measuring.query_times import QueryStats
from app.query import Queries
from app.settings import Settings
from app.store.base import LIVE, Store, StoreError
from app.store.connection import MEMORY

_STORE_ANSWERS_S = 5.0


@dataclass(frozen=True)
class StoreState:
    """The store as it is now; None where it did not answer, which `error` explains."""

    live_spans: int | None
    size_bytes: int | None
    """File and write-ahead log; 0 for a store in memory."""
    free_disk_bytes: int | None
    error: str


@dataclass(frozen=True)
class OtherSignal:
    """Metrics or logs: taken, counted and not kept, since the start."""

    signal: str
    requests: int
    items: int
    variable: str
    """What switches the sender's exporter off."""


@dataclass(frozen=True)
class SelfReport:
    """Ingest, event loop, queries and store at one moment."""

    now_ns: int
    queue_limit_bytes: int
    queue_limit_requests: int
    ingest: IngestStats
    loop_lag: DurationSummary
    queries: QueryStats
    store: StoreState
    other_signals: tuple[OtherSignal, ...]

    @property
    def queue_full(self) -> bool:
        """Whether the next request of a usual size would be refused."""
        ingest = self.ingest
        return (
            ingest.queued_requests >= self.queue_limit_requests or ingest.queued_bytes >= 0.95 * self.queue_limit_bytes
        )


async def self_report(state: Any) -> SelfReport:
    """The report out of an application's state; a store that hangs costs five seconds and its own numbers only."""
    ingest: Ingest = state.ingest
    queries: Queries = state.queries
    loop_lag: LoopLag = state.loop_lag
    settings: Settings = state.settings
    lag = loop_lag.summary()
    stats = await asyncio.to_thread(ingest.stats)
    query_stats = await asyncio.to_thread(queries.stats)
    store = await _store_state(state.store, settings.data)
    limits = ingest.limits
    # Paths of this machine are no business of whoever reads the numbers.
    stats = replace(
        stats,
        last_error=_without_path(stats.last_error, settings.data),
        refusals=tuple(replace(each, message=_without_path(each.message, settings.data)) for each in stats.refusals),
    )
    return SelfReport(
        time.time_ns(), limits.held_bytes, limits.held_requests, stats, lag, query_stats, store, _other_signals(stats)
    )


def free_bytes(data: str) -> int:
    """What is free on the disk of the database file."""
    return shutil.disk_usage("." if data == MEMORY else Path(data).absolute().parent).free


def _other_signals(stats: IngestStats) -> tuple[OtherSignal, ...]:
    return tuple(
        OtherSignal(signal, count, stats.other_signal_items[signal], f"OTEL_{signal.upper()}_EXPORTER=none")
        for signal, count in sorted(stats.other_signal_requests.items())
        if count
    )


async def _store_state(store: Store, data: str) -> StoreState:
    try:
        async with asyncio.timeout(_STORE_ANSWERS_S):
            datasets = await asyncio.to_thread(store.datasets)
            size_bytes = await asyncio.to_thread(store.size_bytes)
            free = await asyncio.to_thread(free_bytes, data)
    except TimeoutError:
        return StoreState(None, None, None, f"The store did not answer within {_STORE_ANSWERS_S:g} s.")
    except (StoreError, OSError) as error:
        return StoreState(None, None, None, _without_path(str(error), data))
    live = next(each for each in datasets if each.dataset_id == LIVE)
    return StoreState(live.span_count, size_bytes, free, "")


def _without_path(text: str, data: str) -> str:
    if data == MEMORY:
        return text
    path = Path(data)
    for shown in sorted({data, str(path.absolute()), str(path.absolute().parent)}, key=len, reverse=True):
        if len(shown) > 1:
            text = text.replace(
                shown, "the data folder" if shown == str(path.absolute().parent) else "the database file"
            )
    return text
