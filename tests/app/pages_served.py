"""A server whose database holds the hostile dataset, for tests of pages with and without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.store import open_store
from tests.app.hostile_spans import hostile_batch
from tests.server import Server, running_server


@contextmanager
def served_hostile(folder: Path, command: str = "serve") -> Iterator[Server]:
    """Live is empty; dataset 1 is hostile from its name to its last attribute."""
    folder.mkdir(parents=True, exist_ok=True)
    store = open_store(str(folder / "spanwise.duckdb"))
    store.import_dataset(
        "<b class=injected>hostile</b>", "upload", "<i class=injected>.json", "OTLP JSON", [hostile_batch()]
    )
    store.close()
    with running_server(folder, command=command) as server:
        yield server
