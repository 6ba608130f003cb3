"""OTLP protobuf: one ExportTraceServiceRequest, or several written one after the other, which is the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from app.formats.base import ImportRefused
from app.otlp.columns import Batch
from app.otlp.errors import DecodeError
from app.otlp.protobuf import decode_protobuf

NAME = "OTLP protobuf"
SPECIFICITY = 10

PIECE_BYTES = 4 * 2**20
"""About 12,000 spans of 342 bytes."""

_RESOURCE_SPANS = 0x0A
_MAX_RESOURCE_SPANS_BYTES = 512 * 2**20
# resource, scope_spans, schema_url, and the first byte of the deprecated instrumentation_library_spans (1000).
_INNER_TAGS = frozenset(b"\x0a\x12\x1a\xc2")


def sniff(head: bytes) -> bool:
    """A ResourceSpans first, beginning with one of its fields; what comes after it is told while reading."""
    position = 0
    while position < len(head):
        try:
            start, length = _message(head, position)
        except ValueError:
            return False
        if start is None or start >= len(head):
            return False
        if length:
            return head[start] in _INNER_TAGS and _fits(head, start, length)
        position = start
    return False


def read(stream: BinaryIO) -> Iterator[Batch]:
    """The spans, a few megabytes at a time: the file is never held whole."""
    piece = bytearray()
    offset = position = 0
    """Of the piece's first byte in the file; of what is unread in the piece."""
    at_end = False
    while True:
        start, length = _next(piece, position, offset)
        complete = start is not None and start + length <= len(piece)
        if complete and start is not None:
            position = start + length
        elif not at_end:
            chunk = stream.read(2**20)
            at_end = not chunk
            piece += chunk
        elif position < len(piece):
            raise ImportRefused(
                "the protobuf message ends too early: the file is cut off",
                "export or copy the file again",
                byte=offset + len(piece),
            )
        if position >= PIECE_BYTES or (at_end and position == len(piece)):
            if position:
                yield _decoded(bytes(piece[:position]), offset)
            offset += position
            del piece[:position]
            position = 0
            if at_end and not piece:
                return


def _next(piece: bytearray, position: int, offset: int) -> tuple[int | None, int]:
    try:
        start, length = _message(piece, position)
    except ValueError as error:
        raise ImportRefused(
            f"not OTLP protobuf any more: {error}", "export or copy the file again", byte=offset + position
        ) from error
    if length > _MAX_RESOURCE_SPANS_BYTES:
        raise ImportRefused(f"a message of {length:,} bytes", "export or copy the file again", byte=offset + position)
    return start, length


def _decoded(body: bytes, offset: int) -> Batch:
    try:
        return decode_protobuf(body)
    except DecodeError as error:
        raise ImportRefused(f"{error}", f"the fault is after byte {offset} of the file", byte=offset) from error


def _message(data: bytes | bytearray, position: int) -> tuple[int | None, int]:
    """Start and length of the ResourceSpans at a position; (None, 0) where the data ends before both are known."""
    if position >= len(data):
        return None, 0
    if data[position] != _RESOURCE_SPANS:
        raise ValueError(f"a field that no trace request has begins with byte 0x{data[position]:02x}")
    length = shift = 0
    for index in range(position + 1, min(position + 6, len(data))):
        length |= (data[index] & 0x7F) << shift
        if not data[index] & 0x80:
            return index + 1, length
        shift += 7
    if len(data) >= position + 6:
        raise ValueError("a length of more than 5 bytes")
    return None, 0


def _fits(data: bytes, start: int, length: int) -> bool:
    """Whether the first field of the message at `start` ends inside it."""
    index = start + (2 if data[start] == 0xC2 else 1)
    inner = shift = 0
    for position in range(index, min(index + 5, len(data))):
        inner |= (data[position] & 0x7F) << shift
        if not data[position] & 0x80:
            return position + 1 + inner <= start + length
        shift += 7
    return len(data) < index + 5
