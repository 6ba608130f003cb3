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

MIN_FREE_BYTES = 256 * 2**20
"""What a checkpoint of the longest log may write to the disk, so that it never meets a full one."""

_DAMAGE = re.compile(
    r"corrupt (?:database|wal)|could not read enough bytes|not a valid duckdb database file|failed to deserialize"
    r"|failure while replaying (?:checkpoint )?wal|this wal was created for|wal does not match",
    re.IGNORECASE,
)
_NO_DAMAGE = re.compile(
    r"out of memory|no space left|could not write|could not set lock|read wal of version|interrupt", re.IGNORECASE
)
_KINDS_OF_DAMAGE = (duckdb.Error, duckdb.IOException, duckdb.SerializationException)
_UNREAD_FROM = re.compile(r"corrupt wal file: entry at byte position (\d+)", re.IGNORECASE)
_ENTRY_HEAD_BYTES = 16
"""Length and checksum before each entry of the log; the engine names the byte behind them."""
_BLOCK_HEADS = (4096, 8192)
_BLOCK_SIZES = (256 * 2**10).to_bytes(8, "little") + (2048).to_bytes(8, "little")
"""Bytes of a block and rows of a vector, as both copies of a database's second header have them at byte 40."""


class StoreDamaged(StoreError):
    """A file of the database is damaged; `log` says whether only its write-ahead log is."""

    def __init__(self, message: str, *, log: bool = False, readable_bytes: int | None = None) -> None:
        super().__init__(message)
        self.log = log
        self.readable_bytes = readable_bytes
        """How much of the log's beginning can be read, None where that is not known."""


@dataclass(frozen=True)
class Limits:
    """What the engine may use."""

    memory_bytes: int
    threads: int
    temp_bytes: int = 8 * 2**30
    checkpoint_bytes: int = CHECKPOINT_THRESHOLD_BYTES
    """Length of the write-ahead log at which it is merged into the file."""
    min_free_bytes: int = MIN_FREE_BYTES
    """Disk that must stay free; with less, nothing more is stored."""


def default_limits() -> Limits:
    """A quarter of the memory, between 512 MiB and 4 GiB (DuckDB itself would take 80 %), and up to 4 threads."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Limits(min(max(physical // 4, 512 * 2**20), 4 * 2**30), min(os.cpu_count() or 1, 4))


def connect(path: str, limits: Limits) -> duckdb.DuckDBPyConnection:
    """The database at the path, made where there is none; settings are frozen.

    Raises StoreDamaged, StoreBusy, StoreError.
    """
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
        "checkpoint_threshold": f"{limits.checkpoint_bytes // 2**10}KiB",
        # On purpose: no release of Spanwise runs on DuckDB 1.x, so its older storage formats would buy nothing.
        "storage_compatibility_version": "v2.0.0",
    }
    try:
        connection = duckdb.connect(path, config=settings)
        # A file that turns out to be damaged is closed as it is; the store's own end makes its checkpoint itself.
        connection.execute("pragma disable_checkpoint_on_shutdown")
        connection.execute("set lock_configuration = true")
    except duckdb.Error as error:
        raise explained(path, error) from error
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
        if path.exists():
            with path.open("rb") as file:
                head = file.read(12)
            # Looked at before DuckDB does: for an SQLite file it would want to download an extension.
            if head[8:] != b"DUCK":
                if _was_a_database(path):
                    raise StoreDamaged(f"the beginning of {path} is damaged")
                raise StoreError(f"{path} is not a DuckDB file: move it away or choose another --data file")
    except OSError as error:
        raise StoreError(f"cannot use {path}: {error.strerror}; choose another --data file") from error


def _was_a_database(path: Path) -> bool:
    """Whether a file that does not begin like a DuckDB file is one all the same, or holds nothing at all."""
    with path.open("rb") as file:
        for start in _BLOCK_HEADS:
            file.seek(start + 40)
            if file.read(16) == _BLOCK_SIZES:
                return True
        file.seek(0)
        while chunk := file.read(2**20):
            if chunk.strip(b"\0"):
                return False
    return True


def explained(path: str, error: duckdb.Error) -> StoreError:
    """The store's error for one that struck while the file was opened or looked through for the first time."""
    words = str(error)
    if "lock" in words.lower() and (found := re.search(r"PID (\d+)", words)):
        return StoreBusy(f"{path} is in use by process {found.group(1)}: stop it or choose another --data file")
    if is_damage(error):
        if "WAL" not in words:
            return StoreDamaged(f"{path} is damaged. DuckDB says: {first_line(error)}")
        found = _UNREAD_FROM.search(words)
        readable_bytes = int(found.group(1)) - _ENTRY_HEAD_BYTES if found else None
        message = f"the write-ahead log of {path} is damaged. DuckDB says: {first_line(error)}"
        return StoreDamaged(message, log=True, readable_bytes=readable_bytes)
    return StoreError(f"cannot open {path}: {first_line(error)}")


def is_damage(error: duckdb.Error) -> bool:
    """Whether a file does not hold what was written to it; no room, locks and newer formats are no damage."""
    words = str(error)
    return bool(_DAMAGE.search(words)) and not _NO_DAMAGE.search(words)


def first_line(error: Exception) -> str:
    """What an engine's error says, without its stack and hints."""
    return (str(error).splitlines() or [""])[0][:500]


def translated(error: duckdb.Error, doing: str) -> StoreError:
    """The store's error for one of the engine; no room, on disk or in memory, is worth another try."""
    words = str(error)
    if isinstance(error, duckdb.FatalException):
        return StoreBusy(f"{doing} was interrupted, the database is opened again: {first_line(error)}")
    # Errors of other kinds quote values, and those may say anything.
    if type(error) in _KINDS_OF_DAMAGE and is_damage(error):
        return StoreDamaged(f"{doing} failed, a part of the database file cannot be read: {first_line(error)}")
    full = "No space left" in words or "Could not write" in words or "not enough" in words.lower()
    if full or isinstance(error, duckdb.OutOfMemoryException):
        return StoreBusy(f"no room for {doing} right now: {first_line(error)}")
    return StoreError(f"{doing} failed: {first_line(error)}")
