"""A whole file as one JSON document, and where it broke if it is none."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from app.formats.base import HEAD_BYTES, ImportRefused
from app.formats.outline import Outline, outline

MAX_DOCUMENT_BYTES = 512 * 2**20
"""Parsed JSON takes up to ten times its size in memory."""

INVALID_UTF8 = "the file is not valid UTF-8 throughout: broken characters were replaced"


def load_document(stream: BinaryIO, warnings: list[str]) -> Any:
    """The document; invalid UTF-8 is replaced, with a warning. Raises ImportRefused with line, column and byte."""
    words = _decoded(_all_bytes(stream).rstrip(), warnings)
    try:
        return json.loads(words)
    except RecursionError as error:
        raise ImportRefused("the JSON is nested too deep") from error
    except json.JSONDecodeError as error:
        raise ImportRefused(
            f"the file is not JSON: {error.msg}",
            "the file may have been cut off, or edited by hand: export it again",
            error.lineno,
            error.colno,
            len(words[: error.pos].encode("utf-8", "replace")),
        ) from error
    except ValueError as error:
        raise ImportRefused(f"the file is not JSON: {error}") from error


def outline_of_head(head: bytes) -> Outline:
    """The outline of a file's first document."""
    return outline(head[:HEAD_BYTES].decode("utf-8", "replace").lstrip("\ufeff"))


def _decoded(content: bytes, warnings: list[str]) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        warnings.append(INVALID_UTF8)
        return content.decode("utf-8-sig", "replace")


def _all_bytes(stream: BinaryIO) -> bytes:
    content = bytearray()
    while chunk := stream.read(2**20):
        content += chunk
        if len(content) > MAX_DOCUMENT_BYTES:
            raise ImportRefused(
                f"a JSON document of more than {MAX_DOCUMENT_BYTES // 2**20} MiB",
                "split it; OTLP JSON lines and OTLP protobuf may be larger",
            )
    return bytes(content)
