"""Attributes as rows of a table: readable values, links only where they are safe, long ones cut until asked for."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

CUT_BYTES = 2_048
_URL = re.compile(r"https?://[^\s\"'<>\\^`{|}\x00-\x20]+", re.ASCII)


@dataclass(frozen=True)
class AttributeRow:
    """One attribute."""

    key: str
    value: str
    url: str
    """The value again where the whole of it is an http or https URL, else empty."""
    full_bytes: int
    """Bytes of the whole value where `value` is only its beginning, else 0."""


def attribute_rows(json_text: str, whole: bool = False) -> tuple[AttributeRow, ...]:
    """The members of a JSON object by key; values over CUT_BYTES are cut unless `whole`."""
    try:
        members = json.loads(json_text or "{}")
    except (ValueError, RecursionError):
        return (_row("(unreadable attributes)", json_text, whole),)
    if not isinstance(members, dict):
        return (_row("(value)", _text(members), whole),)
    return tuple(_row(key, _text(members[key]), whole) for key in sorted(members))


def _row(key: str, value: str, whole: bool) -> AttributeRow:
    size = len(value.encode("utf-8", "replace"))
    if size > CUT_BYTES and not whole:
        shown = value.encode("utf-8", "replace")[:CUT_BYTES].decode("utf-8", "ignore")
        return AttributeRow(key, shown, "", size)
    return AttributeRow(key, value, value if size <= CUT_BYTES and _URL.fullmatch(value) else "", 0)


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case {"$bytes": str(encoded), **rest} if not rest:
            return f"bytes, base64: {encoded}"
        case {"$double": str(name), **rest} if not rest:
            return name
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, indent=1)
        case _:
            return json.dumps(value, ensure_ascii=False)
