"""A file as batches, whatever its format and compression; a file that yields no span says why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc

from app.formats import otlp_json_lines
from app.formats.base import HEAD_BYTES, Format, ImportRefused
from app.formats.json_document import outline_of_head
from app.formats.outline import LIST
from app.formats.registry import formats, recognised
from app.formats.streams import DEFAULT_LIMIT_BYTES, head_of, open_stream
from app.otlp.columns import Batch, Tally

_FUTURE_NS = 24 * 3_600 * 1_000_000_000


@dataclass(frozen=True)
class FileImport:
    """A recognised file; its batches are read while they are drawn."""

    format_name: str
    batches: Iterator[Batch]


def read_file(path: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> FileImport:
    """The file's format, and its batches; drawing them raises ImportRefused where it breaks or yields no span.

    Raises ImportRefused where the file is empty or of no known format; at most `limit_bytes` are decompressed.
    """
    head = head_of(path, limit_bytes)
    if _is_blank(path, head, limit_bytes):
        raise ImportRefused("the file is empty", tally=Tally())
    found = recognised(head) or _found_later(path, head, limit_bytes)
    if found is None:
        raise ImportRefused(_not_known(head), f"formats that can be imported: {known_formats()}, each also gzipped")
    return FileImport(found.NAME, _batches(path, found, limit_bytes))


def _found_later(path: Path, head: bytes, limit_bytes: int) -> Format | None:
    # Telemetry on stdout: a service may print more than a head of its own before the first export.
    if len(head) < HEAD_BYTES:
        return None
    with open_stream(path, limit_bytes) as stream:
        return otlp_json_lines if otlp_json_lines.begins_later(stream) else None


def known_formats() -> str:
    """The names of all formats, for messages and pages."""
    return ", ".join(sorted(one.NAME for one in formats()))


def _batches(path: Path, found: Format, limit_bytes: int) -> Iterator[Batch]:
    total, warned = Tally(), False
    with open_stream(path, limit_bytes) as stream, _depth_told():
        for batch in found.read(stream):
            if not warned and (warning := _time_warning(batch)):
                warned = True
                batch = replace(batch, tally=replace(batch.tally, warnings=(*batch.tally.warnings, warning)))
            total = total.plus(batch.tally)
            yield batch
    if not total.accepted:
        raise ImportRefused(*_nothing_in(total), tally=total)


@contextmanager
def _depth_told() -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise ImportRefused("the file is nested too deep", "values may be nested a few hundred levels deep") from error


def _nothing_in(total: Tally) -> tuple[str, str]:
    """Why the file gave no span, and what to do."""
    reasons = [
        f"{one.reason} ({one.count:,} {noun if one.count == 1 else noun + 's'}{one.first and ', first: ' + one.first})"
        for noun, refused in (("span", total.rejected), ("line", total.unreadable))
        for one in refused[:5]
    ]
    if total.other_signals and not total.found:
        noun = "request holds" if total.other_signals == 1 else "requests hold"
        reasons.insert(0, f"{total.other_signals:,} {noun} logs, metrics or profiles, which are not imported")
    hint = "" if total.found else "export traces: the file was recognised, but no spans are in it"
    return "no span could be imported: " + ("; ".join(reasons) or "the file holds none"), hint


def _time_warning(batch: Batch) -> str:
    if not batch.span_count:
        return ""
    latest_ns = pc.max(batch.spans["start_ns"]).as_py()
    if latest_ns <= time.time_ns() + _FUTURE_NS:
        return ""
    try:
        day = datetime.fromtimestamp(latest_ns // 1_000_000_000, UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        day = "no calendar day"
    return f"spans lie in the future ({day}): a clock is wrong, or the times were made up"


def _is_blank(path: Path, head: bytes, limit_bytes: int) -> bool:
    if head.removeprefix(b"\xef\xbb\xbf").strip():
        return False
    with open_stream(path, limit_bytes) as stream:
        stream.read(len(head))
        return all(not chunk.strip() for chunk in iter(lambda: stream.read(2**20), b""))


def _not_known(head: bytes) -> str:
    found = outline_of_head(head)
    for above, what in (((), "a JSON object"), ((LIST,), "a JSON list of objects")):
        keys = [path[-1] for path in found.paths if path[:-1] == above]
        if keys:
            named = ", ".join(f'"{key[:60]}"' for key in keys[:12]) + (" …" if len(keys) > 12 else "")
            return f"not a known trace format: {what} with the keys {named}"
    begins = head.strip().split(b"\n")[0].rstrip()[:40]
    try:
        words = begins.decode()
    except UnicodeDecodeError as error:
        words = begins[: error.start].decode() if error.start > len(begins) - 4 else ""
    if words and words.isprintable():
        return f"not a known trace format: text that begins with {words!r}"
    return f"not a known trace format: binary data that begins with the bytes {head[:16].hex(' ')}"
