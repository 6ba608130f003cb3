"""OTLP JSON lines: one request a line, signals mixed, other lines (an application's own output) between them."""

from __future__ import annotations

from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any, BinaryIO

from app.formats.base import BATCH_SPANS
from app.formats.outline import outline
from app.otlp.columns import Batch
from app.otlp.errors import DecodeError
from app.otlp.json_records import add_json_request, load_json
from app.otlp.records import BatchBuilder

NAME = "OTLP JSON lines"
SPECIFICITY = 20

SIGNALS = frozenset(
    name
    for signal in ("Spans", "Logs", "Metrics", "Profiles")
    for name in (f"resource{signal}", f"resource_{signal.lower()}")
)
"""Top-level keys of requests, in both spellings of protobuf's JSON."""

MAX_LINE_BYTES = 256 * 2**20

SEARCHED_BYTES = 16 * 2**20
_PIECE_BYTES = 4_096

_BOM = b"\xef\xbb\xbf"


def sniff(head: bytes) -> bool:
    """A line that is an OTLP request, or begins one where the head ends."""
    lines = head.removeprefix(_BOM).split(b"\n")
    return any(_is_request(line, cut_off=number == len(lines)) for number, line in enumerate(lines, 1))


def begins_later(stream: BinaryIO) -> bool:
    """Whether a request begins one of the lines of the first 16 MiB: an application's own output may come before it."""
    at_line_start = True
    read_bytes = 0
    while read_bytes < SEARCHED_BYTES and (piece := stream.readline(_PIECE_BYTES)):
        ended = piece.endswith(b"\n")
        if at_line_start and _is_request(piece, cut_off=not ended):
            return True
        at_line_start = ended
        read_bytes += len(piece)
    return False


def holds_lines(head: bytes) -> bool:
    """Whether one whole line of several is a request; in a document over several lines none is."""
    lines = [line for line in head.removeprefix(_BOM).split(b"\n") if line.strip()]
    return len(lines) > 1 and any(_is_request(line, cut_off=False) for line in lines)


def read(stream: BinaryIO) -> Iterator[Batch]:
    """All requests; a line that is none is counted with its number and costs the others nothing."""
    builder = BatchBuilder()
    for number, line in _lines(stream):
        where = f"line {number}"
        if len(line) > MAX_LINE_BYTES:
            builder.unreadable(f"longer than {MAX_LINE_BYTES // 2**20} MiB", where)
            continue
        if not line.lstrip().startswith((b"{", b"[")):
            builder.unreadable("not JSON", where)
            continue
        try:
            # With its end, a line that is cut off in a text would be said to hold a control character.
            document = load_json(line.rstrip(), builder)
            if isinstance(document, dict) and not SIGNALS.isdisjoint(document):
                add_json_request(builder, document, where)
            else:
                builder.unreadable(f"JSON, but not OTLP: {_described(document)}", where)
        except DecodeError as error:
            cause = error.__cause__
            if isinstance(cause, JSONDecodeError):
                builder.unreadable(f"not JSON: {cause.msg}", f"{where}, column {cause.colno}")
            else:
                builder.unreadable(str(error), where)
        if len(builder) >= BATCH_SPANS:
            yield builder.finish()
            builder = BatchBuilder()
    yield builder.finish()


def _is_request(line: bytes, cut_off: bool) -> bool:
    # The keys of a request come early; looking for them first keeps a head of many lines cheap.
    if not line.lstrip().startswith(b"{") or b'"resource' not in line:
        return False
    words = line.decode("utf-8", "replace").strip()
    found = outline(words)
    return not SIGNALS.isdisjoint(found.keys()) and (cut_off or found.end == len(words))


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES + 1)
        if not line.isspace() and line:
            yield number, line


def _described(document: Any) -> str:
    if isinstance(document, dict):
        return "an object with " + (", ".join(f'"{key[:40]}"' for key in list(document)[:5]) or "no keys")
    return "a list" if isinstance(document, list) else "a value"
