"""How soon a killed server is ready again on a large store: `python -m tests.bench.restart`, the last line is JSON.

A child fills a file through the store, like the writer in groups of 20,000 spans, and kills itself when its log is
nearly as long as it may become. Then a real server starts on it: from its start to the first `/readyz` that says 200.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from app.otlp.columns import Batch
from app.otlp.protobuf import decode_protobuf
from app.store import open_store
from app.store.base import LIVE
from app.store.connection import CHECKPOINT_THRESHOLD_BYTES
from tests.bench.bodies import Template
from tests.server import environment, running_server

_GROUP_SPANS = 20_000
_TRACE_SPANS = 8


def batches(spans: int) -> Iterator[Batch]:
    """Decoded bodies whose spans are all different and come in the order of time."""
    drawn = decode_protobuf(Template(1, _GROUP_SPANS).body(1))
    starts = drawn.spans["start_ns"].to_numpy()
    numbers = np.arange(_GROUP_SPANS, dtype=np.uint64)
    for first in range(0, spans, _GROUP_SPANS):
        ids = numbers + np.uint64(first + 1)
        traces = np.stack([ids // np.uint64(_TRACE_SPANS), np.full_like(ids, 7)], axis=1)
        columns = {
            "trace_id": pa.ExtensionArray.from_storage(
                pa.uuid(), pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(traces)])
            ),
            "span_id": pa.array(ids),
            "span_hash": pa.array(ids * np.uint64(0x9E3779B97F4A7C15)),
            "start_ns": pa.array(starts + first * 1_000),
        }
        table = drawn.spans
        for name, column in columns.items():
            table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
        yield replace(drawn, spans=table)


def fill(path: str, spans: int) -> None:
    """Appends so many spans, goes on until the log is long, and dies without closing anything."""
    store, log = open_store(path), Path(path + ".wal")
    stored = 0
    for batch in batches(2 * spans):
        stored += store.append(LIVE, [batch]).inserted
        if stored >= spans and log.exists() and log.stat().st_size > 0.9 * CHECKPOINT_THRESHOLD_BYTES:
            break
    print(stored, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--spans", type=int, default=10_000_000)
    arguments.add_argument("--restarts", type=int, default=3)
    arguments.add_argument("--fill", metavar="FILE", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.fill:
        fill(options.fill, options.spans)
    with tempfile.TemporaryDirectory(prefix="spanwise-bench-") as name:
        print(json.dumps(measure(Path(name), options.spans, options.restarts)))


def measure(folder: Path, spans: int, restarts: int) -> dict[str, object]:
    """Fills once, then kills and starts again so many times; each start meets the same long log."""
    data = folder / "spanwise.duckdb"
    began = time.monotonic()
    filling = subprocess.run(
        [sys.executable, "-m", "tests.bench.restart", "--spans", str(spans), "--fill", str(data)],
        env=environment(), stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if filling.returncode != -signal.SIGKILL:
        raise SystemExit(f"filling failed with {filling.returncode}")
    filled_s, log_bytes = time.monotonic() - began, data.with_suffix(".duckdb.wal").stat().st_size
    ready_s, first_page_s = [], []
    for _ in range(restarts):
        began = time.monotonic()
        with running_server(folder, ended_by_test=True) as server, server.client() as client:
            while client.get("/readyz").status_code != 200:
                time.sleep(0.02)
            ready_s.append(round(time.monotonic() - began, 2))
            client.get("/?last=15m").raise_for_status()
            first_page_s.append(round(time.monotonic() - began, 2))
            server.process.kill()
            server.process.wait()
    return {
        "spans": int(filling.stdout), "file_bytes": data.stat().st_size, "wal_bytes": log_bytes,
        "fill_s": round(filled_s, 1), "ready_s": ready_s, "first_page_s": first_page_s,
    }  # fmt: skip


if __name__ == "__main__":
    main()
