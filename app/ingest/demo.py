"""The example that `spanwise demo` shows: a recording of real services, loaded once per database."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from app.ingest.importing import import_upload
from app.resources import demo_recording
from app.store.base import Dataset, Store

NAME = "Example: a small shop"
KIND = "demo"


async def load_demo(store: Store, recording: Path | None = None) -> Dataset:
    """The example's dataset, imported where this very recording is not in the store yet; an older one is replaced."""
    path = recording or demo_recording()
    source = f"{path.name} {hashlib.sha256(await asyncio.to_thread(path.read_bytes)).hexdigest()[:16]}"
    older = [each for each in await asyncio.to_thread(store.datasets) if each.kind == KIND and each.name == NAME]
    for dataset in older:
        if dataset.source == source:
            return dataset
    loaded = await import_upload(store, path, NAME, source, kind=KIND)
    for dataset in older:
        await asyncio.to_thread(store.delete_dataset, dataset.dataset_id)
    return loaded
