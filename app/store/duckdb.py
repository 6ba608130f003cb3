"""Spans in one DuckDB file: one writer, a cursor and a snapshot for every reader."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analysis.span import Window
from app.otlp.columns import Batch, Tally
from app.store import datasets, writing
from app.store.base import LIVE, Appended, Dataset, StoreBusy, StoreError
from app.store.connection import MEMORY, Limits, connect, default_limits, sync_folder, translated
from app.store.duplicates import RecentSpans
from app.store.migrate import migrate
from app.store.reading import DuckSpans
from app.store.shapes import ShapeIds, ShapesOfTransaction

_MIN_FREE_BYTES = 256 * 2**20
_RECENT_DATASETS = 4
_LIVE_SPANS_COUNTED_EXACTLY = 500_000
_LIVE_COUNTS_KEPT_S = 10.0
_READERS_LEAVE_S = 5.0


class DuckStore:
    """`app.store.base.Store` over one DuckDB file, or `:memory:`."""

    def __init__(self, path: str, limits: Limits | None = None, min_free_bytes: int = _MIN_FREE_BYTES) -> None:
        self._path = path
        self._limits = limits or default_limits()
        self._min_free_bytes = min_free_bytes
        self._write_lock = threading.Lock()
        self._import_lock = threading.Lock()
        # Guards the fields below; held for moments only, never during a query.
        self._state_lock = threading.Lock()
        self._readers: set[DuckSpans] = set()
        self._recent: dict[int, RecentSpans] = {}
        self._candidates: dict[int, bool] = {}
        # Versions go on from the clock, so that what a browser kept from an earlier run is never taken for current.
        self._first_version = time.time_ns() // 1_000
        self._versions: dict[int, int] = {}
        self._deletions: dict[int, int] = {}
        self._live: tuple[float, int, Dataset] | None = None
        self._references = writing.KnownReferences()
        self._closed = False
        self._root = connect(path, self._limits)
        try:
            migrate(self._root, path)
            self._shapes = ShapeIds(self._root)
        except duckdb.Error as error:
            self._root.close()
            raise translated(error, f"preparing {path}") from error
        except StoreError:
            self._root.close()
            raise
        sync_folder(path)
        self._writer, self._importing = self._root.cursor(), self._root.cursor()

    def append(self, dataset_id: int, batches: Sequence[Batch]) -> Appended:
        """Stores all batches in one transaction; durable when it returns, nothing stored when it raises StoreError.

        Spans that are in the dataset already with the same trace, id, kind and content are left out.
        """
        self._check_room()
        with self._writing() as connection:
            recent = self._recent_spans(connection, dataset_id)
            connection.execute("begin")
            shapes = ShapesOfTransaction(self._shapes)
            written = writing.write(connection, dataset_id, batches, recent, shapes)
            writing.write_references(connection, batches, self._references)
            if dataset_id != LIVE and written.appended.inserted:
                datasets.count_again(connection, dataset_id)
            self._commit(connection)
            self._references.add(batches)
            shapes.committed()
            recent.add(written.hashes, written.starts)
            if written.appended.inserted:
                self._changed(dataset_id, batches)
        return written.appended

    def import_dataset(self, name: str, kind: str, source: str, format_name: str, batches: Iterable[Batch]) -> Dataset:
        """Makes a dataset of all batches, atomically: when the iterable or the store raises, nothing stays.

        The iterable is drawn from while other appends go on; imports wait for one another.
        """
        with self._import_lock:
            if self._closed:
                raise StoreError("the store is closed")
            connection = self._importing
            try:
                return self._import(connection, name, kind, source, format_name, batches)
            except duckdb.Error as error:
                with suppress(duckdb.Error):
                    connection.execute("rollback")
                raise self._failed(error, "the import") from error
            except BaseException:
                with suppress(duckdb.Error):
                    connection.execute("rollback")
                raise

    def datasets(self) -> list[Dataset]:
        """All datasets, the live one first, then newest first.

        Counts of the live one are exact up to 500,000 spans; above that they may be 10 s old.
        """
        with self._reading() as connection:
            live, *uploads = datasets.listed(connection)
            return [self._counted_live(connection, live), *uploads]

    def delete_dataset(self, dataset_id: int) -> None:
        """Removes a dataset with all its spans; the live one is emptied."""
        with self._import_lock, self._writing() as connection:
            connection.execute("begin")
            datasets.delete(connection, dataset_id)
            self._commit(connection)
            self._references.clear()
            self._shapes.clear()
            with self._state_lock:
                self._recent.pop(dataset_id, None)
                self._candidates.pop(dataset_id, None)
                self._deletions[dataset_id] = self._deletions.get(dataset_id, 0) + 1
                # Its counts may be 10 s old otherwise.
                self._live = None
            self._changed(dataset_id, ())

    @contextmanager
    def read(self, dataset_id: int, window: Window, timeout_s: float) -> Iterator[DuckSpans]:
        """A handle for analyses; its queries are interrupted once timeout_s have passed since the call.

        `DuckSpans.interrupt` ends them earlier, when nobody waits for the answer any more.
        """
        spans = DuckSpans(self._cursor(), dataset_id, window, timeout_s, self._has_candidates(dataset_id))
        with self._state_lock:
            self._readers.add(spans)
        try:
            yield spans
        finally:
            with self._state_lock:
                self._readers.discard(spans)
            spans.close()

    def version(self, dataset_id: int) -> int:
        """A number that changes whenever spans of the dataset do: the high-water mark that caches key on."""
        with self._state_lock:
            return self._versions.get(dataset_id, self._first_version)

    def deletions(self, dataset_id: int) -> int:
        """A number that changes whenever spans of the dataset are deleted: nothing older may be shown any more."""
        with self._state_lock:
            return self._deletions.get(dataset_id, 0)

    def size_bytes(self) -> int:
        """Bytes on disk: file and write-ahead log; 0 for a store in memory."""
        if self._path == MEMORY:
            return 0
        total = 0
        for file in (Path(self._path), *Path(self._path).parent.glob(Path(self._path).name + ".wal*")):
            with suppress(OSError):
                total += file.stat().st_size
        return total

    def close(self) -> None:
        """Checkpoints and closes; idempotent."""
        with self._write_lock:
            if self._closed:
                return
            self._closed = True
            self._close_readers()
            with suppress(duckdb.Error):
                self._writer.execute("checkpoint")
            for connection in (self._writer, self._importing, self._root):
                connection.close()
            sync_folder(self._path)

    @contextmanager
    def _writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._write_lock:
            if self._closed:
                raise StoreError("the store is closed")
            try:
                yield self._writer
            except duckdb.Error as error:
                raise self._failed(error, "storing", locked=True) from error
            except BaseException:
                with suppress(duckdb.Error):
                    self._writer.execute("rollback")
                raise

    @contextmanager
    def _reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        connection = self._cursor()
        try:
            yield connection
        except duckdb.Error as error:
            raise self._failed(error, "reading") from error
        finally:
            with suppress(duckdb.Error):
                connection.close()

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        with self._state_lock:
            if self._closed:
                raise StoreError("the store is closed")
            try:
                return self._root.cursor()
            except duckdb.Error as error:
                raise translated(error, "opening a cursor") from error

    def _commit(self, connection: duckdb.DuckDBPyConnection) -> None:
        try:
            connection.execute("commit")
        except duckdb.FatalException as error:
            # A full disk can fail the checkpoint after the commit: that commit is durable, but the instance is not
            # usable until it is opened again.
            if "commit succeeded" not in str(error).lower():
                raise
            self._reopen()

    def _failed(self, error: duckdb.Error, doing: str, *, locked: bool = False) -> StoreError:
        if isinstance(error, duckdb.FatalException):
            if locked:
                self._reopen()
            else:
                with self._write_lock:
                    self._reopen()
        elif locked:
            with suppress(duckdb.Error):
                self._writer.execute("rollback")
        return translated(error, doing)

    def _reopen(self) -> None:
        """Opens the file anew after the engine declared its instance unusable; the write lock is held."""
        self._close_readers()
        with self._state_lock:
            for connection in (self._writer, self._importing, self._root):
                with suppress(duckdb.Error):
                    connection.close()
            self._root = connect(self._path, self._limits)
            self._writer, self._importing = self._root.cursor(), self._root.cursor()
            self._recent.clear()
        self._references.clear()

    def _close_readers(self) -> None:
        with self._state_lock:
            readers = list(self._readers)
        for reader in readers:
            reader.interrupt()
        deadline = time.monotonic() + _READERS_LEAVE_S
        while time.monotonic() < deadline:
            with self._state_lock:
                if not self._readers:
                    return
            time.sleep(0.01)

    def _check_room(self) -> None:
        if self._path == MEMORY:
            return
        free = shutil.disk_usage(Path(self._path).absolute().parent).free
        if free < self._min_free_bytes:
            raise StoreBusy(
                f"only {free // 2**20} MiB of disk are free beside {self._path} and {self._min_free_bytes // 2**20} "
                "are kept for what is stored already: free some, or delete a dataset"
            )

    def _recent_spans(self, connection: duckdb.DuckDBPyConnection, dataset_id: int) -> RecentSpans:
        recent = self._recent.pop(dataset_id, None)
        if recent is None:
            recent = RecentSpans(datasets.latest_start_ns(connection, dataset_id))
        with self._state_lock:
            self._recent[dataset_id] = recent
            while len(self._recent) > _RECENT_DATASETS:
                del self._recent[next(iter(self._recent))]
        return recent

    def _changed(self, dataset_id: int, batches: Sequence[Batch]) -> None:
        candidates = any(_holds_candidate(batch) for batch in batches)
        with self._state_lock:
            self._versions[dataset_id] = self._versions.get(dataset_id, self._first_version) + 1
            if candidates:
                self._candidates[dataset_id] = True

    def _has_candidates(self, dataset_id: int) -> bool:
        known = self._candidates.get(dataset_id)
        if known is None:
            version = self.version(dataset_id)
            with self._reading() as connection:
                known = datasets.has_candidates(connection, dataset_id)
            with self._state_lock:
                if known or version == self._versions.get(dataset_id, self._first_version):
                    self._candidates[dataset_id] = known
        return known

    def _counted_live(self, connection: duckdb.DuckDBPyConnection, live: Dataset) -> Dataset:
        now, version, known = time.monotonic(), self.version(LIVE), self._live
        if known is not None:
            counted_at, counted_version, dataset = known
            large = dataset.span_count > _LIVE_SPANS_COUNTED_EXACTLY
            if counted_version == version or (large and now - counted_at < _LIVE_COUNTS_KEPT_S):
                return dataset
        dataset = datasets.counted(connection, live)
        self._live = (now, version, dataset)
        return dataset

    def _import(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,
        kind: str,
        source: str,
        format_name: str,
        batches: Iterable[Batch],
    ) -> Dataset:
        self._check_room()
        connection.execute("begin")
        dataset_id = datasets.new_id(connection)
        recent, tally, candidates = RecentSpans(-1), Tally(), False
        references, shapes = writing.References(), ShapesOfTransaction(self._shapes)
        for batch in batches:
            written = writing.write(connection, dataset_id, [batch], recent, shapes)
            recent.add(written.hashes, written.starts)
            repeated = written.appended.duplicates
            tally = tally.plus(
                replace(
                    batch.tally,
                    accepted=batch.tally.accepted - repeated,
                    duplicates=batch.tally.duplicates + repeated,
                )
            )
            candidates = candidates or _holds_candidate(batch)
            references.add(batch)
            self._check_room()
        dataset = datasets.insert(connection, dataset_id, name, kind, source, format_name, tally)
        # Resources and scopes are shared by all datasets: only the writer may add them, or two would add the same.
        with self._writing() as writer:
            writer.execute("begin")
            writing.write_references(writer, [references.batch()], self._references)
            self._commit(writer)
            self._commit(connection)
        shapes.committed()
        with self._state_lock:
            self._candidates[dataset_id] = candidates
        self._changed(dataset_id, ())
        return dataset


def _holds_candidate(batch: Batch) -> bool:
    classes: pa.ChunkedArray = batch.shapes["request_class"]
    return bool(np.any(pc.equal(classes, "candidate").to_numpy()))
