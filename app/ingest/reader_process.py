"""Uploads are parsed in a process of their own: hostile files cost neither the event loop nor the server's memory."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from app.formats.base import ImportRefused
from app.formats.importing import FileImport, read_file
from app.otlp.columns import Batch

SILENCE_S = 300.0
"""A document of 512 MiB is parsed in about a minute before its first batch comes."""

_CONTEXT = multiprocessing.get_context("spawn")


class ImportCancelled(Exception):
    """Nobody waits for the import any more; nothing of it is stored."""


class ReaderProcess:
    """One file read by a process of its own; its pipe holds one batch at most, so reading waits for storing."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._connection, theirs = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_read, args=(theirs, path, limit_bytes), daemon=True)
        self._cancelled = threading.Event()
        self._process.start()
        # Closed on this side: or the end of the process would never be seen as the end of the pipe.
        theirs.close()

    def opened(self) -> FileImport:
        """Waits for the format; its batches raise ImportRefused and ImportCancelled as they are drawn."""
        return FileImport(str(self._received()), self._batches())

    def cancel(self) -> None:
        """Ends the process; whoever draws batches gets ImportCancelled. May be called from any thread."""
        self._cancelled.set()
        self._process.kill()

    def close(self) -> None:
        """Ends the process where it still runs, and frees what it held."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()

    def _batches(self) -> Iterator[Batch]:
        while (received := self._received()) is not None:
            assert isinstance(received, list)
            yield Batch.from_ipc(received)

    def _received(self) -> object:
        received: object = None
        try:
            if not self._connection.poll(SILENCE_S):
                raise ImportRefused(f"reading the file gave nothing for {SILENCE_S:.0f} s", "split the file")
            received = self._connection.recv()
        except (EOFError, OSError):
            if not self._cancelled.is_set():
                self._process.join(5)
                raise ImportRefused(
                    f"the process that read the file ended early (exit code {self._process.exitcode})",
                    "it may have run out of memory: split the file",
                ) from None
        if self._cancelled.is_set():
            raise ImportCancelled
        if isinstance(received, Exception):
            raise received
        return received


def _read(connection: Connection, path: Path, limit_bytes: int) -> None:
    """In the process: sends the format's name, each batch as Arrow IPC, then None; or the exception that ended it."""
    with suppress(BrokenPipeError, KeyboardInterrupt):
        try:
            found = read_file(path, limit_bytes)
            connection.send(found.format_name)
            for batch in found.batches:
                connection.send(batch.to_ipc())
            connection.send(None)
        except (ImportRefused, OSError, RuntimeError) as error:
            connection.send(error)
