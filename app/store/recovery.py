"""Damaged files: set aside under a dated name, never deleted or overwritten, so that the server starts all the same.

What counts as damage: a DuckDB file or log that DuckDB itself calls so, a DuckDB file whose first page is gone, a file
of nothing but zeros, and a log without its database. What never does: a file of another program, a lock that another
process holds, a newer format, a full disk, too little memory. Those are refused and stay where they are.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from app.store.base import SetAside, StoreBusy, StoreError
from app.store.connection import MEMORY, Limits, StoreDamaged, connect, explained, sync_folder

_LOG = logging.getLogger("spanwise.store")
_LOGS = (".wal.recovery", ".wal.checkpoint", ".wal")
_NAME = re.compile(r"(?P<file>.+)\.damaged-(?P<day>\d{8})-(?P<time>\d{6})(?:-\d+)?", re.ASCII)
_ATTEMPTS = 4
"""Setting the log aside may uncover that the file is damaged too, and the fresh one is opened after that."""
_COMMIT_MARK = bytes.fromhex("0500000000000000e7fe7d722fed3d5e640064ffff")
"""Length, checksum and content of the entry that ends every transaction in DuckDB's log."""
_LOG_HEAD, _LOG_PAGE_BYTES = bytes.fromhex("64006265"), 4096
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def open_database(
    path: str, limits: Limits, prepare: Callable[[duckdb.DuckDBPyConnection], None]
) -> duckdb.DuckDBPyConnection:
    """The database at the path after `prepare`; what is damaged is set aside first. Raises StoreBusy, StoreError."""
    damage: StoreDamaged | None = None
    for _ in range(_ATTEMPTS):
        try:
            if path != MEMORY and not Path(path).exists():
                _set_aside_logs_alone(path)
            return _prepared(path, limits, prepare)
        except StoreDamaged as error:
            damage = error
            _set_aside(path, error)
    raise StoreError(f"{damage}; it was set aside again and again: choose another --data file")


def files_set_aside(path: str) -> tuple[SetAside, ...]:
    """What was set aside and still lies beside the database, newest first."""
    if path == MEMORY:
        return ()
    found = []
    names = {Path(path).name + ending for ending in ("", *_LOGS)}
    with suppress(OSError), os.scandir(Path(path).absolute().parent) as entries:
        for each in entries:
            name = _NAME.fullmatch(each.name)
            if name and name["file"] in names:
                with suppress(OSError, ValueError):
                    at = datetime.strptime(name["day"] + name["time"], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
                    log = name["file"].endswith(_LOGS)
                    found.append(SetAside(each.path, log, int(at.timestamp()) * 10**9, each.stat().st_size))
    return tuple(sorted(found, key=lambda one: (-one.at_ns, one.path)))


def _prepared(
    path: str, limits: Limits, prepare: Callable[[duckdb.DuckDBPyConnection], None]
) -> duckdb.DuckDBPyConnection:
    connection = connect(path, limits)
    try:
        if path != MEMORY:
            _keep_unread_log(path, connection)
        prepare(connection)
        sync_folder(path)
    except duckdb.Error as error:
        connection.close()
        raise explained(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _keep_unread_log(path: str, connection: duckdb.DuckDBPyConnection) -> None:
    """Copies a log of which the engine silently read only the beginning, though transactions follow.

    A wrong length looks to it like the end that a kill tore off, and the next commit would cut all the rest away.
    Raises StoreDamaged where it read nothing at all: such a log is moved, not copied.
    """
    log = Path(path + ".wal")
    if not log.exists():
        return
    [row] = connection.execute("select wal_size from pragma_database_size()").fetchall()
    number, unit = str(row[0]).split()
    # The size is cut down to whole units of the next smaller kind and then to a tenth: "3.6 MiB" may be 3.7002.
    read_bytes = int((float(number) + 0.1) * _UNITS[unit]) + _UNITS[unit] // 2**10 if float(number) else 0
    size = log.stat().st_size
    if size <= read_bytes or not (_holds_commit(log, read_bytes) or (not read_bytes and _has_no_head(log))):
        return
    if not read_bytes:
        raise StoreDamaged(f"the write-ahead log of {path} is damaged at its beginning", log=True)
    kept = _free_name(log)
    try:
        _copy(log, kept, size)
    except OSError as error:
        kept.unlink(missing_ok=True)
        raise StoreBusy(f"the log {log} is damaged and cannot be copied to {kept}: {error.strerror}") from error
    _LOG.warning(
        "the write-ahead log of %s is damaged behind its first %d KiB: spans stored after those are missing; "
        "the whole log is kept as %s", path, read_bytes // 2**10, kept,
    )  # fmt: skip
    # Cuts the rest off, so that the next start does not find and copy it again.
    connection.execute("force checkpoint")


def _holds_commit(log: Path, start: int) -> bool:
    with log.open("rb") as file:
        file.seek(start)
        rest = b""
        while chunk := file.read(2**20):
            rest = rest[-len(_COMMIT_MARK) :] + chunk
            if _COMMIT_MARK in rest:
                return True
    return False


def _has_no_head(log: Path) -> bool:
    with log.open("rb") as file:
        head = file.read(_LOG_PAGE_BYTES)
    # A shorter one was killed while it was begun.
    return len(head) == _LOG_PAGE_BYTES and not head.startswith(_LOG_HEAD)


def _set_aside_logs_alone(path: str) -> None:
    """Saves logs whose database is gone: making a new database of that name, the engine would delete them."""
    if any(_size(path + ending) for ending in _LOGS):
        _set_aside(path, StoreDamaged(f"{path} is missing, its write-ahead log is there", log=True))


def _set_aside(path: str, damage: StoreDamaged) -> None:
    with _locked(path) as mine:
        if not mine:
            return
        readable_bytes = damage.readable_bytes
        prefix = Path(path + ".wal.beginning")
        if damage.log and readable_bytes and not _beginning_copied(Path(path + ".wal"), prefix, readable_bytes):
            readable_bytes = None
        # Logs first: a database without its log is opened at its checkpoint, a log without its database is deleted.
        for name in (path + ending for ending in (*_LOGS, *(() if damage.log else ("",)))):
            if Path(name).exists():
                kept = _free_name(Path(name))
                Path(name).rename(kept)
                _LOG.warning("%s; it is set aside as %s, nothing of it is deleted", damage, kept)
        if damage.log and readable_bytes:
            prefix.rename(path + ".wal")
            _LOG.warning("the first %d bytes of the log are whole and are read", readable_bytes)
        elif damage.log:
            _LOG.warning("%s is opened as it was at its last checkpoint", path)
        else:
            _LOG.warning("%s starts anew, without spans", path)
        sync_folder(path)


@contextmanager
def _locked(path: str) -> Iterator[bool]:
    """Holds the lock that the engine would hold; False where another process has dealt with the file meanwhile."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    except OSError as error:
        raise StoreError(f"{path} is damaged and cannot be set aside: {error.strerror}") from error
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreBusy(f"{path} is in use by another process: stop it or choose another --data file") from error
        try:
            yield Path(path).exists() and os.path.samestat(os.fstat(handle), Path(path).stat())
        except OSError as error:
            raise StoreError(f"{path} is damaged and cannot be set aside: {error.strerror}") from error
    finally:
        os.close(handle)


def _beginning_copied(log: Path, prefix: Path, length: int) -> bool:
    """Copies what can be read of a log; False where there is no room for it, or more logs follow that one."""
    if any(_size(str(log) + ending) for ending in (".checkpoint", ".recovery")):
        return False
    try:
        _copy(log, prefix, length)
    except OSError as error:
        prefix.unlink(missing_ok=True)
        _LOG.warning("the beginning of %s cannot be copied: %s", log, error.strerror)
        return False
    return True


def _copy(source: Path, target: Path, length: int) -> None:
    with source.open("rb") as read, target.open("wb") as written:
        while length > 0 and (chunk := read.read(min(length, 2**20))):
            written.write(chunk)
            length -= len(chunk)
        written.flush()
        os.fsync(written.fileno())


def _free_name(file: Path) -> Path:
    stem = f"{file.name}.damaged-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    for number in range(10_000):
        name = file.with_name(f"{stem}-{number}" if number else stem)
        if not os.path.lexists(name):
            return name
    raise StoreError(f"{file} is damaged and no name is free to set it aside")


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
