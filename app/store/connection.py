"""Opening a DuckDB file: locked down, bounded, and with errors that say what to do."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import duckdb

from app.store.base import StoreBusy, StoreError

MEMORY = ":memory:"

CHECKPOINT_THRESHOLD_BYTES = 256 * 2**20
"""Twice the commit rate of DuckDB's 16 MiB (150,000 spans/s to 284,000 at 8,192 a commit); replaying that much of a
log at start takes about a second, and a free disk must hold it twice."""


@dataclass(frozen=True)
class Limits:
    """What the engine may use."""

    memory_bytes: int
    threads: int
    temp_bytes: int = 8 * 2**30


def default_limits() -> Limits:
    """A quarter of the memory, between 512 MiB and 4 GiB (DuckDB itself would take 80 %), and up to 4 threads."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Limits(min(max(physical // 4, 512 * 2**20), 4 * 2**30), min(os.cpu_count() or 1, 4))


def connect(path: str, limits: Limits) -> duckdb.DuckDBPyConnection:
    """The database at the path, made where there is none; settings are frozen. Raises StoreError, StoreBusy."""
    temp = f"{path}.tmp" if path != MEMORY else ""
    if path != MEMORY:
        _check_file(Path(path))
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "allow_unsigned_extensions": "false",
        "python_enable_replacements": "false",
        "memory_limit": f"{limits.memory_bytes // 2**20}MiB",
        "threads": str(limits.threads),
        "temp_directory": temp,
        "max_temp_directory_size": f"{limits.temp_bytes // 2**20}MiB",
        "checkpoint_threshold": f"{CHECKPOINT_THRESHOLD_BYTES // 2**20}MiB",
        # On purpose: no release of Spanwise runs on DuckDB 1.x, so its older storage formats would buy nothing.
        "storage_compatibility_version": "v2.0.0",
    }
    try:
        connection = duckdb.connect(path, config=settings)
        connection.execute("set lock_configuration = true")
    except duckdb.Error as error:
        raise _explained(path, error) from error
    if temp:
        # Only the holder of the file's lock may do this: the spill files of a process that was killed.
        for leftover in Path(temp).glob("duckdb_temp_*"):
            leftover.unlink(missing_ok=True)
        sync_folder(path)
    return connection


def sync_folder(path: str) -> None:
    """Makes the names of the file and its log durable; DuckDB syncs their content only."""
    if path == MEMORY:
        return
    folder = os.open(Path(path).absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_file(path: Path) -> None:
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise StoreError(f"{path} is a folder: give --data a file in it, such as {path / 'spanwise.duckdb'}")
        if path.exists() and path.stat().st_size:
            with path.open("rb") as file:
                head = file.read(12)
            # Looked at before DuckDB does: for an SQLite file it would want to download an extension.
            if head[8:] != b"DUCK":
                raise StoreError(f"{path} is not a DuckDB file: move it away or choose another --data file")
    except OSError as error:
        raise StoreError(f"cannot use {path}: {error.strerror}; choose another --data file") from error


def _explained(path: str, error: duckdb.Error) -> StoreError:
    words = str(error)
    if "lock" in words.lower() and (found := re.search(r"PID (\d+)", words)):
        return StoreBusy(f"{path} is in use by process {found.group(1)}: stop it or choose another --data file")
    if "WAL" in words:
        return StoreError(
            f"the write-ahead log of {path} is damaged: move {path}.wal away to open the last checkpoint "
            f"(spans since then are in that log only). DuckDB says: {first_line(error)}"
        )
    return StoreError(f"cannot open {path}: {first_line(error)}")


def first_line(error: Exception) -> str:
    """What an engine's error says, without its stack and hints."""
    return (str(error).splitlines() or [""])[0][:500]


def translated(error: duckdb.Error, doing: str) -> StoreError:
    """The store's error for one of the engine; no room, on disk or in memory, is worth another try."""
    words = str(error)
    full = "No space left" in words or "Could not write" in words or "not enough" in words.lower()
    if full or isinstance(error, duckdb.OutOfMemoryException):
        return StoreBusy(f"no room for {doing} right now: {first_line(error)}")
    return StoreError(f"{doing} failed: {first_line(error)}")
