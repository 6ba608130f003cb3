"""Reports as JSON: dataclasses field by field, span ids as hex, numbers that JSON does not know as null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum

from starlette.responses import Response

from app.links import span_text


def json_answer(value: object, status: int = 200) -> Response:
    """A JSON response for a report or plain values."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "replace"), status, media_type="application/json")


def failed(status: int, error: str, hint: str = "") -> Response:
    """A failure in the API's form."""
    return json_answer({"error": error, "hint": hint}, status)


def plain(value: object, name: str = "") -> object:
    """Values that `json` writes: span ids as 16 hex digits, because JavaScript holds 53 bits of a number only."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, int):
        return span_text(value) if name.endswith("span_id") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name), each.name) for each in fields(value)}
    if isinstance(value, Mapping):
        return {_key(key): plain(item, str(key)) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {field: plain(item, field) for field, item in zip(value._fields, value, strict=True)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)


def _key(key: object) -> str:
    return str(key.value) if isinstance(key, Enum) else str(key)
