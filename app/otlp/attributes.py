"""Attribute values as Python values and as lossless JSON text.

JSON text keeps what JSON cannot say by itself in one-key objects: bytes as {"$bytes": base64}, NaN and infinities as
{"$double": "NaN"}, and maps that have a key of that look as {"$map": {…}}. Whole doubles keep their `.0`.
Two things are not kept: lone surrogates, which no UTF-8 text can hold (they become U+FFFD), and values nested deeper
than `MAX_DEPTH`, of which a short text stays.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring
from typing import Any

AttributeValue = str | bool | int | float | bytes | list["AttributeValue"] | dict[str, "AttributeValue"] | None

MAX_DEPTH = 128
"""Twice the depth that SDKs are told to keep to (AttributeValueDepthLimit, 64, in the common specification)."""

TOO_DEEP = f"(nested deeper than {MAX_DEPTH} levels)"

_MARKS = frozenset({"$bytes", "$double", "$map"})
_DOUBLES = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def clean(text: str) -> str:
    """The text with lone surrogates as U+FFFD, so that it can be stored as UTF-8."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def member(key: str, value: AttributeValue) -> str:
    """One attribute as the text of a JSON object's member."""
    return f"{encode_basestring(clean(key))}:{value_json(value)}"


def joined(members: Iterable[str]) -> str:
    """JSON text of an attribute map from its members, in an order that does not depend on the sender's."""
    return "{" + ",".join(sorted(members)) + "}"


def attributes_json(attributes: Mapping[str, AttributeValue]) -> str:
    """Lossless JSON text of an attribute map, the same for equal maps whatever the order of their keys."""
    if not attributes:
        return "{}"
    return joined({clean(key): member(key, value) for key, value in attributes.items()}.values())


def value_json(value: AttributeValue, depth: int = 1) -> str:
    """Lossless JSON text of one value; `depth` counts the arrays and maps around it and itself."""
    match value:
        case str():
            return encode_basestring(clean(value))
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return int.__repr__(value)
        case float():
            return _double(value)
        case bytes():
            return f'{{"$bytes":"{b64encode(value).decode()}"}}'
    if depth > MAX_DEPTH:
        return f'"{TOO_DEEP}"'
    if isinstance(value, dict):
        members = {
            clean(key): f"{encode_basestring(clean(key))}:{value_json(inner, depth + 1)}"
            for key, inner in value.items()
        }
        text = joined(members.values())
        return text if _MARKS.isdisjoint(members) else f'{{"$map":{text}}}'
    return "[" + ",".join(value_json(inner, depth + 1) for inner in value) + "]"


def _double(value: float) -> str:
    if value - value == 0.0:
        return float.__repr__(value)
    return '{"$double":"NaN"}' if value != value else f'{{"$double":"{"" if value > 0 else "-"}Infinity"}}'


def attributes_from_json(text: str) -> dict[str, AttributeValue]:
    """The attribute map that `attributes_json` wrote."""
    loaded = json.loads(text)
    return {key: _value(value) for key, value in loaded.items()}


def _value(loaded: Any) -> AttributeValue:
    if isinstance(loaded, dict):
        if len(loaded) == 1:
            [(key, inner)] = loaded.items()
            match key, inner:
                case "$bytes", str():
                    return b64decode(inner)
                case "$double", str():
                    return _DOUBLES[inner]
                case "$map", dict():
                    return {name: _value(value) for name, value in inner.items()}
        return {key: _value(value) for key, value in loaded.items()}
    if isinstance(loaded, list):
        return [_value(value) for value in loaded]
    value: AttributeValue = loaded
    return value
