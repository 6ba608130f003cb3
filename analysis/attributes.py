"""Attribute values of a span as text and whole numbers, whatever type the sender chose."""

from __future__ import annotations

from collections.abc import Mapping

Attributes = Mapping[str, object]


def text(attributes: Attributes, *keys: str) -> str:
    """The first of the keys that holds a value, as text; empty where none does."""
    for key in keys:
        value = attributes.get(key)
        if value is not None and value != "":
            return value if isinstance(value, str) else str(value)
    return ""


def number(attributes: Attributes, *keys: str) -> int:
    """The first of the keys that holds a whole number or its decimal text; 0 where none does."""
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, bool):
            continue
        if isinstance(value, int):
            return value
        if isinstance(value, float) and value == value and abs(value) < 2**62:
            return int(value)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
            return int(value)
    return 0
