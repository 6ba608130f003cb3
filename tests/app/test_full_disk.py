"""A disk that runs full costs the file that would fill it, and a server is ready again once nothing fails any more."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.requests import Request
from starlette.types import Message

from app.ingest.stats import Counters
from app.ingest.uploading import UploadRefused, received_upload
from app.main import readyz
from app.settings import Settings

_Usage = namedtuple("_Usage", "total used free")


def test_a_file_that_would_fill_the_disk_is_refused_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(2**30, 2**30 - 2**28, 2**28))

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 2**16, "more_body": True}

    async def upload() -> None:
        scope = {"type": "http", "method": "POST", "path": "/api/upload", "headers": [], "query_string": b"name=a"}
        async with received_upload(Request(scope, receive), tmp_path, 2**30, 2**28):
            raise AssertionError

    with pytest.raises(UploadRefused, match="256 MiB are free") as refused:
        asyncio.run(upload())
    assert refused.value.status == 507
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("age_s", "status"), [(1, 503), (120, 200)])
def test_a_failure_long_ago_does_not_keep_the_server_from_being_ready(tmp_path: Path, age_s: int, status: int) -> None:
    failed_ns = time.time_ns() - age_s * 1_000_000_000
    stats = replace(Counters().snapshot(0, 0), last_error="the disk was full", last_error_ns=failed_ns)
    state = SimpleNamespace(
        store=SimpleNamespace(datasets=list),
        settings=Settings(data=str(tmp_path / "a.duckdb")),
        ingest=SimpleNamespace(stats=lambda: stats),
    )
    answer = asyncio.run(readyz(Request({"type": "http", "app": SimpleNamespace(state=state)})))
    assert answer.status_code == status
    assert ("the disk was full" in json.loads(bytes(answer.body)).get("error", "")) == (status == 503)
