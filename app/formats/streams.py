"""Files as streams of bytes: gzip and zstd undone by their magic bytes, never more than a limit."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from app.formats.base import HEAD_BYTES, ImportRefused

DEFAULT_LIMIT_BYTES = 2**30

_READ_BYTES = 65_536
_OUTPUT_BYTES = 2**20
# A zstd block of 4 bytes can stand for 128 KiB: this much input makes at most 32 MiB at once.
_ZSTD_READ_BYTES = 1_024
_ZSTD_WINDOW_BYTES = 2**27
"""What the zstd command accepts without being told more (--long=27)."""

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def open_stream(path: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> BinaryIO:
    """The decompressed content; reading raises ImportRefused beyond the limit and where compressed data is broken."""
    return io.BufferedReader(_Stream(path, limit_bytes), _OUTPUT_BYTES)


def head_of(path: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> bytes:
    """The first 64 KiB after decompression."""
    with open_stream(path, limit_bytes) as stream:
        return stream.read(HEAD_BYTES)


class _Stream(io.RawIOBase):
    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._file = path.open("rb")
        self._limit_bytes = limit_bytes
        self._read_bytes = 0
        self._pending = memoryview(b"")
        magic = self._file.read(4)
        self._file.seek(0)
        if magic.startswith(_GZIP):
            self._chunks = _gunzipped(self._file)
        elif magic == _ZSTD:
            self._chunks = _unzstd(self._file)
        else:
            self._chunks = iter(lambda: self._file.read(_OUTPUT_BYTES), b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not self._pending:
            self._pending = memoryview(next(self._chunks, b""))
        count = min(len(target), len(self._pending))
        target[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        self._read_bytes += count
        if self._read_bytes > self._limit_bytes:
            raise ImportRefused(
                f"more than {self._limit_bytes / 2**20:,.0f} MiB after decompression",
                "split the file, or send its spans to the OTLP port",
            )
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _gunzipped(file: BinaryIO) -> Iterator[bytes]:
    """All members of a gzip file; zeros after the last one are padding."""
    data = b""
    decompressor = zlib.decompressobj(31)
    while True:
        data = data or file.read(_READ_BYTES)
        if decompressor.eof:
            data = data.lstrip(b"\0") if not data.startswith(_GZIP) else data
            if not data and not (data := file.read(_READ_BYTES).lstrip(b"\0")):
                return
            decompressor = zlib.decompressobj(31)
        at_end = not data
        before = decompressor.copy()
        try:
            chunk = decompressor.decompress(data, _OUTPUT_BYTES)
        except zlib.error as error:
            byte = file.tell() - len(data) + _broken_at(before, data)
            raise ImportRefused(
                f"broken gzip data: {str(error).rpartition(': ')[2]}", "copy or download the file again", byte=byte
            ) from error
        if at_end and not chunk and not decompressor.eof:
            raise ImportRefused(
                "the gzip data ends too early: the file is cut off",
                "copy or download the file again",
                byte=file.tell(),
            )
        data = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
        if chunk:
            yield chunk


def _broken_at(decompressor: zlib._Decompress, data: bytes) -> int:
    for position in range(len(data)):
        try:
            decompressor.decompress(data[position : position + 1])
        except zlib.error:
            return position
    return len(data)


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    """All frames of a zstd file."""
    data = b""
    factory = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    decompressor = factory.decompressobj()
    while data := data or file.read(_ZSTD_READ_BYTES):
        if decompressor.eof:
            decompressor = factory.decompressobj()
        try:
            chunk = decompressor.decompress(data)
        except zstandard.ZstdError as error:
            raise ImportRefused(
                f"broken zstd data: {error}", "copy or download the file again", byte=file.tell() - len(data)
            ) from error
        data = decompressor.unused_data if decompressor.eof else b""
        if chunk:
            yield chunk
    if not decompressor.eof:
        raise ImportRefused(
            "the zstd data ends too early: the file is cut off", "copy or download the file again", byte=file.tell()
        )
