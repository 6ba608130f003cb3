"""What a store promises, whatever engine keeps the spans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from analysis.span import Spans, Window
from app.otlp.columns import Batch, Tally

LIVE = 0
"""Id of the dataset that receivers write to."""


class StoreError(Exception):
    """The store could not do what was asked; the text says what and what to do. Nothing was changed."""


class StoreBusy(StoreError):
    """Try again in a moment: another process holds the file, or there is no room right now."""


@dataclass(frozen=True)
class Dataset:
    """Where spans came from: `live`, the example, or one upload."""

    dataset_id: int
    name: str
    kind: str
    """`live`, `demo` or `upload`."""
    source: str
    """Name of the file as the sender gave it (hostile text), else empty."""
    format: str
    created_ns: int
    span_count: int
    trace_count: int
    first_start_ns: int
    """0 while empty; so is `last_start_ns`."""
    last_start_ns: int
    tally: Tally


@dataclass(frozen=True)
class Appended:
    """What one committed transaction stored."""

    inserted: int
    duplicates: int
    duplicates_by_batch: tuple[int, ...] = ()


@dataclass(frozen=True)
class SetAside:
    """A file of the database that was damaged and lies beside it under a dated name."""

    path: str
    log: bool
    """Whether it is a write-ahead log, which held what was stored since the last checkpoint; else it held all."""
    at_ns: int
    size_bytes: int


@dataclass(frozen=True)
class Damage:
    """What is known to be damaged."""

    set_aside: tuple[SetAside, ...] = ()
    """Newest first."""
    unreadable: str = ""
    """What the engine said when a query met a part of the database that cannot be read, else empty."""


NO_DAMAGE = Damage()


class Store(Protocol):
    """One database. All methods may be called from any thread; none may be called on the event loop (they block)."""

    def append(self, dataset_id: int, batches: Sequence[Batch]) -> Appended:
        """Stores all batches in one transaction; durable when it returns, nothing stored when it raises StoreError.

        Spans that are in the dataset already with the same trace, id, kind and content are left out.
        """
        ...

    def import_dataset(self, name: str, kind: str, source: str, format_name: str, batches: Iterable[Batch]) -> Dataset:
        """Makes a dataset of all batches, atomically: when the iterable or the store raises, nothing stays."""
        ...

    def datasets(self) -> list[Dataset]:
        """All datasets, the live one first, then newest first."""
        ...

    def delete_dataset(self, dataset_id: int) -> None:
        """Removes a dataset with all its spans; the live one is emptied."""
        ...

    def read(self, dataset_id: int, window: Window, timeout_s: float) -> AbstractContextManager[Spans]:
        """A handle for analyses; its queries are interrupted once timeout_s have passed since the call."""
        ...

    def version(self, dataset_id: int) -> int:
        """A number that changes whenever spans of the dataset do: the high-water mark that caches key on."""
        ...

    def deletions(self, dataset_id: int) -> int:
        """A number that changes whenever spans of the dataset are deleted: nothing older may be shown any more."""
        ...

    def size_bytes(self) -> int:
        """Bytes on disk: file and write-ahead log."""
        ...

    def damage(self) -> Damage:
        """What is damaged, a few seconds old at most; quick enough for the event loop."""
        ...

    def close(self) -> None:
        """Checkpoints and closes; idempotent."""
        ...
