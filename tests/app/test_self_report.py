"""The report about the server itself holds while the store does not, and shows no path of the machine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

import app.self_report as self_reports
from app.ingest.errors import Overloaded, Reason
from app.ingest.ingest import Ingest
from app.ingest.stats import Counters
from app.measuring.loop_lag import LoopLag
from app.pages.ingest import ingest_page
from app.query import Queries
from app.self_report import SelfReport, self_report
from app.settings import settings_from
from app.store import open_store
from app.store.base import Dataset, StoreBusy, StoreError


def state(store: Any, data: str) -> SimpleNamespace:
    settings = settings_from({"HOME": "/h"}, {"data": data})
    return SimpleNamespace(
        ingest=Ingest(store), queries=Queries(store, 1, 5), loop_lag=LoopLag(), settings=settings, store=store
    )


def reported(make: Callable[[], SimpleNamespace]) -> SelfReport:
    async def scenario() -> SelfReport:
        return await self_report(make())

    return asyncio.run(scenario())


def test_an_empty_store_is_reported_with_its_size(tmp_path: Path) -> None:
    data = str(tmp_path / "spanwise.duckdb")
    store = open_store(data)
    report = reported(lambda: state(store, data))
    assert (report.store.live_spans, report.store.error) == (0, "")
    assert report.store.size_bytes == store.size_bytes() > 0
    assert (report.store.free_disk_bytes or 0) > 2**20
    assert not report.queue_full
    store.close()
    assert reported(lambda: state(store, data)).store.error == "the store is closed"


def test_a_store_that_hangs_costs_its_own_numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def hanging() -> list[Dataset]:
        go_on.wait(20)
        return []

    monkeypatch.setattr(self_reports, "_STORE_ANSWERS_S", 0.1)

    async def scenario() -> SelfReport:
        report = await self_report(state(SimpleNamespace(datasets=hanging), ":memory:"))
        go_on.set()
        return report

    report = asyncio.run(scenario())
    assert report.store.error == "The store did not answer within 0.1 s."
    assert (report.store.live_spans, report.ingest.batches) == (None, 0)


def test_no_path_of_the_machine_is_shown(tmp_path: Path) -> None:
    data = str(tmp_path / "spanwise.duckdb")

    class Full:
        def append(self, *_: object) -> None:
            raise StoreBusy(f"only 3 MiB of disk are free beside {data}")

        def datasets(self) -> None:
            raise StoreError(f"cannot write {tmp_path}/x of {data}")

    async def scenario() -> tuple[SelfReport, str]:
        made = state(Full(), data)
        made.ingest.not_stored(Reason.NO_ROOM, f"no room beside {data}")
        made.ingest._fail([], Overloaded(f"only 3 MiB of disk are free beside {data}", 2))
        request = Request(
            {
                "type": "http",
                "method": "GET",
                "path": "/ingest",
                "headers": [],
                "query_string": b"",
                "app": SimpleNamespace(state=made),
            }
        )
        answer = await ingest_page(request)
        return await self_report(made), bytes(answer.body).decode()

    report, page = asyncio.run(scenario())
    assert report.ingest.last_error == "only 3 MiB of disk are free beside the database file"
    assert report.ingest.refusals[0].message == "no room beside the database file"
    assert report.store.error == "cannot write the data folder/x of the database file"
    assert str(tmp_path) not in page
    assert "The store does not answer: cannot write" in page
    assert "verdict-broken" in page


def test_other_signals_name_the_variable_that_switches_them_off() -> None:
    stats = Counters().snapshot(0, 0)
    counted = {"other_signal_requests": {"metrics": 3, "logs": 0}, "other_signal_items": {"metrics": 90}}
    [found] = self_reports._other_signals(SimpleNamespace(**(vars(stats) | counted)))  # type: ignore[arg-type]
    assert (found.signal, found.requests, found.items) == ("metrics", 3, 90)
    assert found.variable == "OTEL_METRICS_EXPORTER=none"
    assert self_reports._other_signals(stats) == ()
