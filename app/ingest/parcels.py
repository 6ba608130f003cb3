"""What decoding processes and the server hand to each other, in memory files without a name.

Through a pipe every byte is pickled, written in pieces, read in pieces and unpickled. Files are written again and
again, because pages that the kernel has to find and clear first cost more than the pipe. Linux only; where there is no
such file, or `/proc` does not show those of other processes, the bytes travel inline. The kernel frees the memory with
the last process that has it open, however that ends.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

SMALL_BYTES = 65_536
"""Below this a file costs more than it saves."""

_KEPT_BYTES = 8 * 2**20
"""What one file may keep while it waits for its next use."""


class Parcel(NamedTuple):
    """Byte strings on their way: inline, or where to find them."""

    sizes: tuple[int, ...]
    inline: tuple[bytes, ...]
    process: int = 0
    file: int = -1


class ParcelLost(Exception):
    """The process that packed the parcel is gone."""


def inline(parts: Sequence[pa.Buffer | bytes]) -> Parcel:
    """The parts as a parcel that holds them itself."""
    return Parcel(_sizes(parts), tuple(bytes(memoryview(part)) for part in parts))


class MemoryFile:
    """A memory file for one parcel after the other; made with the first that needs it."""

    def __init__(self) -> None:
        self._file = -1

    def pack(self, parts: Sequence[pa.Buffer | bytes]) -> Parcel:
        """The parts as a parcel, to be unpacked before the next call; small ones go inline. Raises OSError."""
        sizes = _sizes(parts)
        if sum(sizes) < SMALL_BYTES:
            return inline(parts)
        if self._file < 0:
            self._file = os.memfd_create("spanwise", os.MFD_CLOEXEC)
        self.shrink()
        os.lseek(self._file, 0, os.SEEK_SET)
        for part in parts:
            _write(self._file, memoryview(part))
        return Parcel(sizes, (), os.getpid(), self._file)

    def shrink(self) -> None:
        """Gives back what an uncommonly large parcel took."""
        if self._file >= 0 and os.fstat(self._file).st_size > _KEPT_BYTES:
            os.ftruncate(self._file, _KEPT_BYTES)

    def close(self) -> None:
        """Frees the memory."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def unpack(parcel: Parcel) -> list[bytes]:
    """The parts, copied. Raises ParcelLost."""
    if parcel.file < 0:
        return list(parcel.inline)
    try:
        file = os.open(f"/proc/{parcel.process}/fd/{parcel.file}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ParcelLost(f"memory of process {parcel.process}: {error}") from error
    try:
        found = os.fstat(file).st_size
        if found < sum(parcel.sizes):
            raise ParcelLost(f"memory of process {parcel.process}: {found} of {sum(parcel.sizes)} bytes")
        return [_read(file, size) for size in parcel.sizes]
    finally:
        os.close(file)


def _sizes(parts: Sequence[pa.Buffer | bytes]) -> tuple[int, ...]:
    return tuple(memoryview(part).nbytes for part in parts)


def _write(file: int, part: memoryview) -> None:
    while part.nbytes:
        part = part.cast("B")[os.write(file, part) :]


def _read(file: int, size: int) -> bytes:
    pieces = []
    while size and (piece := os.read(file, size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
