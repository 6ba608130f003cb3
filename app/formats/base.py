"""What an upload format is, and how a file that cannot be imported says why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Protocol

from app.otlp.columns import Batch, Rejection, Tally

HEAD_BYTES = 65_536
"""How much of a file, decompressed, `sniff` is shown."""

BATCH_SPANS = 20_000
"""Formats that are read piece by piece hand over a batch when it holds this many spans."""


class Format(Protocol):
    """One module of this package for each; `app.formats.registry` finds it by these four names."""

    NAME: str
    """As pages show it: `Jaeger JSON`."""
    SPECIFICITY: int
    """Formats with a higher number are asked first."""

    def sniff(self, head: bytes) -> bool:
        """Whether a file that begins with these bytes is of the format; by content only, never raises."""
        ...

    def read(self, stream: BinaryIO) -> Iterator[Batch]:
        """All spans of the file. Raises ImportRefused where the file as a whole cannot be read."""
        ...


class ImportRefused(Exception):
    """The file was not imported, and nothing of it is stored."""

    def __init__(
        self,
        message: str,
        hint: str = "",
        line: int | None = None,
        column: int | None = None,
        byte: int | None = None,
        tally: Tally | None = None,
    ) -> None:
        # All arguments go to the base class: that is what lets the exception cross to another process.
        super().__init__(message, hint, line, column, byte, tally)
        self.message = message
        self.hint = hint
        self.line = line
        """Lines and columns count from 1."""
        self.column = column
        self.byte = byte
        """Offset from the beginning of the file, 0 for its first byte."""
        self.tally = tally if tally is not None else Tally(unreadable=(Rejection(message, 1, self.place),))
        """What had been found: without an own one, one unreadable file."""

    @property
    def place(self) -> str:
        """Where the file broke, in words; empty where nothing says it."""
        parts = [f"{name} {value}" for name, value in (("line", self.line), ("column", self.column)) if value]
        if self.byte is not None:
            parts.append(f"byte {self.byte}")
        return ", ".join(parts)

    def __str__(self) -> str:
        place = f" ({self.place})" if self.place else ""
        return f"{self.message}{place}" + (f"\nhint: {self.hint}" if self.hint else "")
