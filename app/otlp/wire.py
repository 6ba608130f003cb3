"""Attribute values straight from protobuf bytes, tolerant where the official parser refuses whole requests.

Google's parser fails a request at arrays nested 48 deep or one byte of invalid UTF-8; senders may nest 64 deep, and
Collector and Jaeger accept both. Here a broken attribute costs only itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from app.otlp.attributes import MAX_DEPTH, TOO_DEEP, AttributeValue, member
from app.otlp.errors import DecodeError
from app.otlp.promotion import SEMANTIC_KEYS

INVALID_UTF8 = "invalid UTF-8 replaced"
UNDECODABLE = "an attribute could not be decoded"
CUT_DEPTH = f"a value nested deeper than {MAX_DEPTH} levels was cut"
STRING_TABLE = "a value refers to a string table, which traces do not have"

# (number, wire type, value of a varint or start, end) of a field in data.
Field = tuple[int, int, int, int]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

_DOUBLE = struct.Struct("<d")


class Attribute(NamedTuple):
    """One decoded attribute, its JSON text, and what was mended in it."""

    key: str
    value: AttributeValue
    member: str
    semantic: bool
    """Whether the span's typed facts depend on it."""
    notes: tuple[str, ...]


_known: dict[bytes, Attribute] = {}
# Longer values seldom repeat; with these two numbers the memo stays below about 40 MB.
_KNOWN_SIZE = 32_768
_KNOWN_BYTES = 512


def attributes(raws: Iterable[bytes]) -> list[Attribute]:
    """The attributes in the bytes of KeyValue messages; those that were seen lately are not decoded again."""
    known = _known.get
    return [known(raw) or _decoded(raw) for raw in raws]


def _decoded(raw: bytes) -> Attribute:
    decoded = _short(raw) or _any_key_value(raw)
    if len(raw) <= _KNOWN_BYTES:
        if len(_known) >= _KNOWN_SIZE:
            _known.clear()
        _known[raw] = decoded
    return decoded


def _short(raw: bytes) -> Attribute | None:
    """The attribute of the layout that all senders write for short texts and numbers, None for any other."""
    try:
        key_end = 2 + raw[1]
        value = key_end + 2
        size = raw[key_end + 1]
        if raw[0] != 0x0A or raw[1] > 127 or raw[key_end] != 0x12 or size > 127 or value + size != len(raw) or size < 2:
            return None
        kind, first = raw[value], raw[value + 1]
        if kind == 0x0A and first == size - 2:
            found: AttributeValue = raw[value + 2 :].decode()
        elif kind == 0x18 and size == 2 and first < 128:
            found = first
        elif kind == 0x18 and size == 3 and first > 127 and raw[value + 2] < 128:
            found = first & 0x7F | raw[value + 2] << 7
        elif kind == 0x10 and size == 2 and first < 2:
            found = first == 1
        else:
            return None
        key = raw[2:key_end].decode()
    except (IndexError, UnicodeDecodeError):
        return None
    return Attribute(key, found, member(key, found), key in SEMANTIC_KEYS, ())


def _any_key_value(raw: bytes) -> Attribute:
    notes: dict[str, None] = {}
    key: str = ""
    value: AttributeValue = None
    try:
        for number, kind, first, end in fields(raw, 0, len(raw)):
            if number == 1 and kind == LENGTH:
                key = text(raw[first:end], notes)
            elif number == 2 and kind == LENGTH:
                value = _any_value(raw, first, end, 1, notes)
            elif number == 3 and kind == VARINT:
                notes[STRING_TABLE] = None
    except DecodeError:
        notes[UNDECODABLE] = None
        key, value = key or "(undecodable)", None
    return Attribute(key, value, member(key, value), key in SEMANTIC_KEYS, tuple(notes))


def text(raw: bytes, notes: dict[str, None]) -> str:
    """The bytes as text, U+FFFD where they are no UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        notes[INVALID_UTF8] = None
        return raw.decode("utf-8", "replace")


def fields(data: bytes, position: int, end: int) -> Iterator[Field]:
    """The fields of the message at data[position:end], without copying; raises DecodeError with the byte offset."""
    while position < end:
        begin = position
        tag, position = _varint(data, position, end)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise DecodeError(f"field number 0 at byte {begin}")
        if kind == LENGTH:
            length, position = _varint(data, position, end)
            if length > end - position:
                raise DecodeError(f"field {number} at byte {begin} is longer than what holds it")
            yield number, kind, position, position + length
            position += length
        elif kind == VARINT:
            value, position = _varint(data, position, end)
            yield number, kind, value, 0
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
            if length > end - position:
                raise DecodeError(f"field {number} at byte {begin} is cut off")
            yield number, kind, position, position + length
            position += length
        else:
            raise DecodeError(f"field {number} at byte {begin} has wire type {kind}")


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    if position < end and data[position] < 0x80:
        return data[position], position + 1
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise DecodeError(f"cut off at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
    raise DecodeError(f"a number at byte {position - 10} does not end")


def _any_value(data: bytes, position: int, end: int, depth: int, notes: dict[str, None]) -> AttributeValue:
    value: AttributeValue = None
    for number, kind, first, last in fields(data, position, end):
        if number == 1 and kind == LENGTH:
            value = text(data[first:last], notes)
        elif number == 2 and kind == VARINT:
            value = first != 0
        elif number == 3 and kind == VARINT:
            value = first - 2**64 if first >= 2**63 else first
        elif number == 4 and kind == FIXED64:
            (value,) = _DOUBLE.unpack_from(data, first)
        elif number in (5, 6) and kind == LENGTH:
            if depth > MAX_DEPTH:
                notes[CUT_DEPTH] = None
                value = TOO_DEEP
            elif number == 5:
                value = _array(data, first, last, depth + 1, notes)
            else:
                value = _map(data, first, last, depth + 1, notes)
        elif number == 7 and kind == LENGTH:
            value = data[first:last]
        elif number == 8 and kind == VARINT:
            notes[STRING_TABLE] = None
            value = None
    return value


def _array(data: bytes, position: int, end: int, depth: int, notes: dict[str, None]) -> list[AttributeValue]:
    return [
        _any_value(data, first, last, depth, notes)
        for number, kind, first, last in fields(data, position, end)
        if number == 1 and kind == LENGTH
    ]


def _map(data: bytes, position: int, end: int, depth: int, notes: dict[str, None]) -> dict[str, AttributeValue]:
    values: dict[str, AttributeValue] = {}
    for number, kind, first, last in fields(data, position, end):
        if number != 1 or kind != LENGTH:
            continue
        key: str = ""
        value: AttributeValue = None
        for inner, inner_kind, inner_first, inner_last in fields(data, first, last):
            if inner == 1 and inner_kind == LENGTH:
                key = text(data[inner_first:inner_last], notes)
            elif inner == 2 and inner_kind == LENGTH:
                value = _any_value(data, inner_first, inner_last, depth, notes)
            elif inner == 3 and inner_kind == VARINT:
                notes[STRING_TABLE] = None
        values[key] = value
    return values
