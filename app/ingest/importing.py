"""Files into datasets: read in a process of their own, stored atomically, one dataset for each file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from app.formats.base import ImportRefused
from app.formats.streams import DEFAULT_LIMIT_BYTES
from app.ingest.reader_process import ImportCancelled, ReaderProcess
from app.store.base import Dataset, Store

__all__ = ["ImportCancelled", "ImportRefused", "import_file", "import_upload"]


async def import_upload(
    store: Store,
    path: Path,
    name: str,
    source: str,
    *,
    kind: str = "upload",
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
) -> Dataset:
    """Imports a file as a new dataset; when it is cancelled or raises, nothing stays.

    Raises ImportRefused where the file yields no span or is broken, StoreError where it cannot be stored, OSError
    where it cannot be opened. The caller owns the file and bounds how many imports run at once.
    """
    reader = ReaderProcess(path, limit_bytes)
    importing = asyncio.create_task(asyncio.to_thread(_store_all, store, reader, name, source, kind))
    try:
        return await asyncio.shield(importing)
    except asyncio.CancelledError:
        reader.cancel()
        await asyncio.shield(_undone(store, importing))
        raise


def import_file(
    store: Store,
    path: Path,
    name: str = "",
    *,
    kind: str = "upload",
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
) -> Dataset:
    """Imports a file as a new dataset, named as the file where no name is given; raises as `import_upload` does."""
    return _store_all(store, ReaderProcess(path, limit_bytes), name or path.name, path.name, kind)


def _store_all(store: Store, reader: ReaderProcess, name: str, source: str, kind: str) -> Dataset:
    with reader:
        found = reader.opened()
        return store.import_dataset(name, kind, source, found.format_name, found.batches)


async def _undone(store: Store, importing: asyncio.Task[Dataset]) -> None:
    """Waits for a cancelled import's thread; a dataset that was committed in the last moment is deleted."""
    try:
        dataset = await importing
    except Exception:  # noqa: BLE001 - whatever ended it, nothing was stored and nobody waits for the reason
        return
    await asyncio.to_thread(store.delete_dataset, dataset.dataset_id)
