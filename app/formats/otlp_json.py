"""OTLP JSON: one ExportTraceServiceRequest or TracesData object that fills the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from app.formats.base import HEAD_BYTES, ImportRefused
from app.formats.json_document import load_document, outline_of_head
from app.formats.otlp_json_lines import SIGNALS, holds_lines
from app.otlp.columns import Batch
from app.otlp.errors import DecodeError
from app.otlp.json_records import add_json_request
from app.otlp.records import BatchBuilder

NAME = "OTLP JSON"
SPECIFICITY = 30


def sniff(head: bytes) -> bool:
    """An object with `resourceSpans` (or another signal's key) that is the whole file."""
    if SIGNALS.isdisjoint(outline_of_head(head).keys()):
        return False
    # One line that goes on beyond the head is better read as lines: whatever follows is then read as well.
    endless = len(head) >= HEAD_BYTES and b"\n" not in head
    return not endless and not holds_lines(head)


def read(stream: BinaryIO) -> Iterator[Batch]:
    """The one request of the file."""
    warnings: list[str] = []
    document = load_document(stream, warnings)
    builder = BatchBuilder()
    for warning in warnings:
        builder.warn(warning)
    try:
        add_json_request(builder, document)
    except DecodeError as error:
        raise ImportRefused(str(error)) from error
    yield builder.finish()
