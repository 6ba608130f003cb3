"""Spans in one DuckDB file: one writer, a cursor and a snapshot for every reader."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import duckdb

from analysis.span import Window
from app.otlp.columns import Batch, Tally
from app.store import datasets, writing
from app.store.base import LIVE, Appended, Damage, Dataset, SetAside, StoreBusy, StoreError
from app.store.connection import MEMORY, Limits, StoreDamaged, default_limits, sync_folder, translated
from app.store.duplicates import RecentSpans
from app.store.migrate import migrate
from app.store.reading import DuckSpans
from app.store.recovery import files_set_aside, open_database
from app.store.remembered import Remembered, hold_candidates
from app.store.shapes import ShapeIds, ShapesOfTransaction

_LOG = logging.getLogger("spanwise.store")
_RECENT_DATASETS = 4
_READERS_LEAVE_S = 5.0
_IMPORT_LEAVES_S = 5.0
_OPEN_AGAIN_EVERY_S = 1.0
_DAMAGE_KEPT_S = 2.0


class DuckStore:
    """`app.store.base.Store` over one DuckDB file, or `:memory:`."""

    def __init__(self, path: str, limits: Limits | None = None) -> None:
        self._path = path
        self._limits = limits or default_limits()
        self._write_lock = threading.Lock()
        self._import_lock = threading.RLock()
        # Guards the fields below; held for moments only, never during a query.
        self._state_lock = threading.Lock()
        self._readers: set[DuckSpans] = set()
        self._recent: dict[int, RecentSpans] = {}
        self._remembered = Remembered()
        self._references = writing.KnownReferences()
        self._closed = False
        self._down = ""
        self._opened_at = 0.0
        self._unreadable = ""
        self._set_aside: tuple[float, tuple[SetAside, ...]] = (-_DAMAGE_KEPT_S, ())
        self._open()

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
                self._remembered.changed(dataset_id, hold_candidates(batches))
        return written.appended

    def import_dataset(self, name: str, kind: str, source: str, format_name: str, batches: Iterable[Batch]) -> Dataset:
        """Makes a dataset of all batches, atomically: when the iterable or the store raises, nothing stays.

        The iterable is drawn from while other appends go on; imports wait for one another.
        """
        with self._import_lock:
            if self._closed:
                raise StoreError("the store is closed")
            connection, root = self._importing, self._root
            try:
                return self._import(connection, name, kind, source, format_name, batches)
            except duckdb.Error as error:
                with suppress(duckdb.Error):
                    connection.execute("rollback")
                raise self._failed(error, "the import", root) from error
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
            self._remembered.deleted(dataset_id)

    @contextmanager
    def read(self, dataset_id: int, window: Window, timeout_s: float) -> Iterator[DuckSpans]:
        """A handle for analyses; its queries are interrupted once timeout_s have passed since the call.

        `DuckSpans.interrupt` ends them earlier, when nobody waits for the answer any more.
        """
        cursor, root = self._cursor(), self._root
        spans = DuckSpans(cursor, dataset_id, window, timeout_s, self._has_candidates(dataset_id))
        with self._state_lock:
            self._readers.add(spans)
        try:
            yield spans
        except StoreError as error:
            if isinstance(error, StoreDamaged):
                self._unreadable = str(error)
            if isinstance(error.__cause__, duckdb.FatalException):
                # The handle must be closed before the file can be opened again.
                self._forget(spans)
                self._failed(error.__cause__, "reading", root)
            raise
        finally:
            self._forget(spans)

    def version(self, dataset_id: int) -> int:
        """A number that changes whenever spans of the dataset do: the high-water mark that caches key on."""
        return self._remembered.version(dataset_id)

    def deletions(self, dataset_id: int) -> int:
        """A number that changes whenever spans of the dataset are deleted: nothing older may be shown any more."""
        return self._remembered.deletions(dataset_id)

    def size_bytes(self) -> int:
        """Bytes on disk: file and write-ahead log; 0 for a store in memory."""
        if self._path == MEMORY:
            return 0
        total = 0
        for file in (self._path + ending for ending in ("", ".wal", ".wal.checkpoint", ".wal.recovery")):
            with suppress(OSError):
                total += Path(file).stat().st_size
        return total

    def damage(self) -> Damage:
        """What is damaged, a few seconds old at most; quick enough for the event loop."""
        looked_at, found = self._set_aside
        now = time.monotonic()
        if now - looked_at >= _DAMAGE_KEPT_S:
            found = files_set_aside(self._path)
            self._set_aside = (now, found)
        return Damage(found, self._unreadable)

    def close(self) -> None:
        """Checkpoints and closes; idempotent."""
        with self._write_lock:
            if self._closed:
                return
            self._closed = True
            self._close_readers()
            with self._import_ended(), suppress(duckdb.Error):
                if not self._down:
                    self._writer.execute("checkpoint")
            self._close_connections()
            sync_folder(self._path)

    def _forget(self, spans: DuckSpans) -> None:
        with self._state_lock:
            self._readers.discard(spans)
        spans.close()

    @contextmanager
    def _writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._write_lock:
            if self._closed:
                raise StoreError("the store is closed")
            self._open_again()
            try:
                yield self._writer
            except duckdb.Error as error:
                raise self._failed(error, "storing") from error
            except BaseException:
                with suppress(duckdb.Error):
                    self._writer.execute("rollback")
                raise

    @contextmanager
    def _reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        connection, root = self._cursor(), self._root
        try:
            yield connection
        except duckdb.Error as error:
            raise self._failed(error, "reading", root) from error
        finally:
            with suppress(duckdb.Error):
                connection.close()

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        if self._down:
            with self._write_lock:
                self._open_again()
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
            self._reopen(error)

    def _failed(self, error: duckdb.Error, doing: str, unlocked: duckdb.DuckDBPyConnection | None = None) -> StoreError:
        """What the caller is told, after what the error needs was done.

        `unlocked` is the instance that failed where the write lock is not held: another thread may have opened the file
        again meanwhile.
        """
        if isinstance(error, duckdb.FatalException):
            if unlocked is None:
                self._reopen(error)
            else:
                with self._write_lock:
                    if self._root is unlocked and not self._closed:
                        self._reopen(error)
        elif unlocked is None:
            with suppress(duckdb.Error):
                self._writer.execute("rollback")
        failure = translated(error, doing)
        if isinstance(failure, StoreDamaged):
            self._unreadable = str(failure)
            if unlocked is None:
                # Senders keep what they have; the next start sets a file aside that cannot be written to.
                return StoreBusy(str(failure))
        return failure

    def _open(self) -> None:
        """Opens the file, whatever is damaged set aside; raises StoreError."""
        self._opened_at = time.monotonic()
        root = open_database(self._path, self._limits, self._prepare)
        with self._state_lock:
            self._root, self._writer, self._importing = root, root.cursor(), root.cursor()
            self._down = ""

    def _prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Brings the schema up to date, and reads what the writer will have to: a file that fails it now is damaged."""
        migrate(connection, self._path)
        self._shapes = ShapeIds(connection)
        datasets.listed(connection)
        datasets.latest_start_ns(connection, LIVE)

    def _reopen(self, reason: Exception) -> None:
        """Opens the file anew after the engine declared its instance unusable; the write lock is held.

        Never raises: where it fails the store is down and every use tries again, at most once a second.
        """
        _LOG.warning("the database is opened again: %s", reason)
        self._close_readers()
        self._down = str(reason)
        with self._import_ended():
            self._close_connections()
        self._references.clear()
        with self._state_lock:
            self._recent.clear()
        self._remembered.start_anew()
        try:
            self._open()
        except StoreError as error:
            self._down = str(error)
            _LOG.error("the database could not be opened again, which is tried on: %s", error)

    def _open_again(self) -> None:
        """Ends the time that the store is down, where that is possible; raises StoreBusy. The write lock is held."""
        if not self._down or self._closed:
            return
        if time.monotonic() - self._opened_at >= _OPEN_AGAIN_EVERY_S:
            try:
                self._open()
                _LOG.warning("the database is open again")
            except StoreError as error:
                self._down = str(error)
        if self._down:
            raise StoreBusy(f"the database could not be opened again yet: {self._down}")

    def _close_connections(self) -> None:
        for connection in (self._writer, self._importing, self._root):
            with suppress(duckdb.Error):
                connection.close()

    @contextmanager
    def _import_ended(self) -> Iterator[None]:
        """Breaks off an import under way and waits for it: closing what another thread uses is undefined."""
        deadline = time.monotonic() + _IMPORT_LEAVES_S
        held = self._import_lock.acquire(blocking=False)
        while not held and time.monotonic() < deadline:
            self._importing.interrupt()
            held = self._import_lock.acquire(timeout=0.05)
        try:
            yield
        finally:
            if held:
                self._import_lock.release()

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
        free, kept = shutil.disk_usage(Path(self._path).absolute().parent).free, self._limits.min_free_bytes
        if free < kept:
            raise StoreBusy(
                f"only {free // 2**20} MiB of disk are free beside {self._path} and {kept // 2**20} MiB "
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

    def _has_candidates(self, dataset_id: int) -> bool:
        known = self._remembered.candidates(dataset_id)
        if known is None:
            version = self.version(dataset_id)
            with self._reading() as connection:
                known = datasets.has_candidates(connection, dataset_id)
            self._remembered.looked_up(dataset_id, version, known)
        return known

    def _counted_live(self, connection: duckdb.DuckDBPyConnection, live: Dataset) -> Dataset:
        known = self._remembered.live_counts()
        if known is not None:
            return known
        began_s, version = time.monotonic(), self.version(LIVE)
        counted = datasets.counted(connection, live)
        self._remembered.live_counted(version, began_s, counted)
        return counted

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
            if self._closed or connection is not self._importing or self._down:
                raise StoreBusy("the import was broken off: the database is being closed or opened again")
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
            candidates = candidates or hold_candidates([batch])
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
        self._remembered.imported(dataset_id, candidates)
        return dataset
