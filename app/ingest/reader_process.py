"""Uploads are parsed in a process of their own: hostile files cost neither the event loop nor the server's memory."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from app.formats.base import ImportRefused
from app.formats.importing import FileImport, read_file
from app.otlp.columns import Batch

SILENCE_S = 300.0
"""A document of 512 MiB is parsed in about a minute before its first batch comes."""

_CONTEXT = multiprocessing.get_context("spawn")
_DONE = "done"


class ImportCancelled(Exception):
    """Nobody waits for the import any more; nothing of it is stored."""


class ReaderProcess:
    """One file read by a process of its own, which runs while the context is open.

    The pipe between them holds one batch at most, so reading waits for storing.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._connection, self._theirs = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_read, args=(self._theirs, path, limit_bytes), daemon=True)
        self._cancelled = threading.Event()
        # Held while the process is started or ended, so that `cancel` finds it as one or the other.
        self._lock = threading.Lock()
        self._running = False

    def __enter__(self) -> ReaderProcess:
        with self._lock:
            if not self._cancelled.is_set():
                self._process.start()
                self._running = True
            # Open on this side, the end of the process would never be seen as the end of the pipe.
            self._theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            if self._running:
                self._running = False
                self._process.kill()
                self._process.join()
            self._process.close()
            self._connection.close()

    def opened(self) -> FileImport:
        """Waits for the format; its batches raise ImportRefused, OSError and ImportCancelled as they are drawn."""
        return FileImport(str(self._received()), self._batches())

    def cancel(self) -> None:
        """Ends the process; whoever waits for it gets ImportCancelled. May be called from any thread."""
        self._cancelled.set()
        with self._lock:
            if self._running:
                self._process.kill()

    def _batches(self) -> Iterator[Batch]:
        while isinstance(received := self._received(), list):
            yield Batch.from_ipc(received)

    def _received(self) -> object:
        received: object = None
        try:
            if not self._connection.poll(SILENCE_S):
                raise ImportRefused(f"reading the file gave nothing for {SILENCE_S:.0f} s", "split the file")
            received = self._connection.recv()
        except EOFError:
            if not self._cancelled.is_set():
                raise self._died() from None
        if self._cancelled.is_set():
            raise ImportCancelled
        if isinstance(received, Exception):
            raise received
        return received

    def _died(self) -> ImportRefused:
        self._process.join(5)
        code = self._process.exitcode
        if code is not None and code < 0:
            return ImportRefused(
                f"the process that read the file was ended by signal {-code}",
                "it may have run out of memory: split the file",
            )
        return ImportRefused(
            f"the process that read the file failed (exit code {code})", "the server's log tells where"
        )


def _read(connection: Connection, path: Path, limit_bytes: int) -> None:
    """In the process: sends the format's name, each batch as Arrow IPC, then a mark; or the error that ended it."""
    # Where memory runs out, this process is to go and not the server.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")
    with suppress(BrokenPipeError, KeyboardInterrupt):
        try:
            found = read_file(path, limit_bytes)
            connection.send(found.format_name)
            for batch in found.batches:
                connection.send(batch.to_ipc())
            connection.send(_DONE)
        except (ImportRefused, OSError) as error:
            connection.send(error)
        except MemoryError:
            connection.send(ImportRefused("there is not enough memory to read the file", "split it"))
