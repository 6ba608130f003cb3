"""OTLP JSON into batches, by the rules of the OTLP specification ("JSON Protobuf Encoding") and a little more lenient.

Ids are hexadecimal; 64-bit numbers may be texts; enums may be names; null means absent; unknown fields are ignored.
As the Collector does, snake_case names are accepted too, and the names that scopes had before OTLP 0.15.
`google.protobuf.json_format` would read ids as base64.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode, urlsafe_b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any

from app.otlp.attributes import MAX_DEPTH, TOO_DEEP, AttributeValue
from app.otlp.columns import Batch
from app.otlp.errors import DecodeError
from app.otlp.records import BatchBuilder, EventRecord, LinkRecord, ResourceRecord, ScopeRecord, SpanRecord
from app.otlp.wire import CUT_DEPTH, INVALID_UTF8, STRING_TABLE

_OTHER_SIGNALS = ("resourceLogs", "resourceMetrics", "resourceProfiles")
_KINDS = {
    f"SPAN_KIND_{name}": number
    for number, name in enumerate(["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"])
}
_STATUS_CODES = {"STATUS_CODE_UNSET": 0, "STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2}

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_KEPT_DEPTH = 4 * (MAX_DEPTH + 2) + 16
"""Levels of brackets: a map takes four for each of its own, and an attribute of an event lies within twelve."""

Object = Mapping[str, Any]


def decode_json_by_record(body: bytes) -> Batch:
    """The spans of an ExportTraceServiceRequest in JSON. Raises DecodeError where the bytes are none."""
    builder = BatchBuilder()
    document = load_json(body, builder)
    add_json_request(builder, document)
    return builder.finish()


def load_json(body: bytes, builder: BatchBuilder) -> Any:
    """The document in the bytes, invalid UTF-8 replaced with a warning. Raises DecodeError with the place."""
    document, repaired = read_json(body)
    if repaired:
        builder.warn(INVALID_UTF8)
    return document


def read_json(body: bytes) -> tuple[Any, bool]:
    """The document in the bytes, and whether invalid UTF-8 was replaced. Raises DecodeError with the place."""
    repaired = False
    try:
        words = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        words = body.decode("utf-8-sig", "replace")
        repaired = True
    try:
        try:
            return json.loads(words), repaired
        except RecursionError:
            return json.loads(_without_depths(words)), repaired
    except RecursionError as error:
        raise DecodeError("not readable as JSON: nested too deep") from error
    except ValueError as error:
        raise DecodeError(f"not readable as JSON: {error}") from error


def _without_depths(words: str) -> str:
    """The text with null for what is nested deeper than any value that is kept: it must cost one value, no batch."""
    kept: list[str] = []
    depth = begin = 0
    for token in _BRACKETS.finditer(words):
        match token[0]:
            case "[" | "{":
                depth += 1
                if depth == _KEPT_DEPTH + 1:
                    kept += (words[begin : token.start()], "null")
            case "]" | "}":
                depth -= 1
                if depth == _KEPT_DEPTH:
                    begin = token.end()
    if depth:
        raise ValueError("nested too deep, and a bracket is not closed")
    return "".join((*kept, words[begin:]))


def add_json_request(builder: BatchBuilder, document: Any, where: str = "") -> None:
    """Adds the spans of one request or TracesData object; `where` is put before the place of a refused span.

    Raises DecodeError where the document is built otherwise; single broken spans are counted as refused.
    """
    if not isinstance(document, Mapping):
        raise DecodeError("not an OTLP trace request: the document is not an object")
    if any(_field(document, name) for name in _OTHER_SIGNALS):
        builder.other_signal()
    for resource_spans in _objects(document, "resourceSpans"):
        notes: dict[str, None] = {}
        try:
            resource = _object(resource_spans, "resource")
            resource_record = builder.resource(
                _attributes(resource, notes),
                _uint32(resource, "droppedAttributesCount"),
                _text(resource_spans, "schemaUrl"),
            )
            for name, scope_name in (
                ("scopeSpans", "scope"),
                ("instrumentationLibrarySpans", "instrumentationLibrary"),
            ):
                for scope_spans in _objects(resource_spans, name):
                    scope = _object(scope_spans, scope_name)
                    scope_record = builder.scope(
                        _text(scope, "name"),
                        _text(scope, "version"),
                        _attributes(scope, notes),
                        _uint32(scope, "droppedAttributesCount"),
                        _text(scope_spans, "schemaUrl"),
                    )
                    _add_spans(builder, scope_spans, resource_record, scope_record, where)
        except BrokenJson as error:
            raise DecodeError(f"not an OTLP trace request: {error}, in a resource or scope") from error
        for note in notes:
            builder.warn(f"resource or scope of {resource_record.service}: {note}")


class BrokenJson(Exception):
    """One span cannot be read; the text says why."""


def _add_spans(
    builder: BatchBuilder, scope_spans: Object, resource: ResourceRecord, scope: ScopeRecord, where: str
) -> None:
    spans = _field(scope_spans, "spans")
    if spans is None:
        return
    if not isinstance(spans, list):
        raise DecodeError("not an OTLP trace request: spans is not a list")
    for number, span in enumerate(spans, 1):
        place = f"{where}, span {number}" if where else f"span {number} of scope {scope.name[:80]!r}"
        try:
            record = _span(span)
        except BrokenJson as error:
            builder.reject(str(error), place)
        else:
            builder.add(record, resource, scope, place)


def _span(span: Any) -> SpanRecord:
    if not isinstance(span, Mapping):
        raise BrokenJson("a span is not an object")
    notes: dict[str, None] = {}
    status = _object(span, "status")
    return SpanRecord(
        _id(span, "traceId", 16),
        int.from_bytes(_id(span, "spanId", 8), "big"),
        _text(span, "name"),
        _enum(span, "kind", _KINDS),
        _integer(span, "startTimeUnixNano"),
        _integer(span, "endTimeUnixNano"),
        int.from_bytes(_id(span, "parentSpanId", 8), "big"),
        _text(span, "traceState"),
        _uint32(span, "flags"),
        _enum(status, "code", _STATUS_CODES),
        _text(status, "message"),
        _attributes(span, notes),
        _uint32(span, "droppedAttributesCount"),
        [
            EventRecord(
                _integer(event, "timeUnixNano"),
                _text(event, "name"),
                _attributes(event, notes),
                _uint32(event, "droppedAttributesCount"),
            )
            for event in _objects(span, "events")
        ],
        _uint32(span, "droppedEventsCount"),
        [
            LinkRecord(
                *_link_ids(link),
                _text(link, "traceState"),
                _uint32(link, "flags"),
                _attributes(link, notes),
                _uint32(link, "droppedAttributesCount"),
            )
            for link in _objects(span, "links")
        ],
        _uint32(span, "droppedLinksCount"),
        notes=list(notes),
    )


def _field(values: Object, name: str) -> Any:
    """A field by its JSON name, else by its name in the .proto file; None where it is absent or null."""
    value = values.get(name)
    return values.get(_snake(name)) if value is None else value


def _snake(name: str) -> str:
    known = _SNAKE.get(name)
    if known is None:
        known = _SNAKE[name] = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    return known


_SNAKE: dict[str, str] = {}


def _object(values: Object, name: str) -> Object:
    value = _field(values, name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BrokenJson(f"{name} is not an object")
    return value


def _objects(values: Object, name: str) -> list[Object]:
    items = _field(values, name)
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        if name in ("events", "links"):
            raise BrokenJson(f"{name} is not a list of objects")
        raise DecodeError(f"not an OTLP trace request: {name} is not a list of objects")
    return items


def _text(values: Object, name: str) -> str:
    value = _field(values, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BrokenJson(f"{name} is not a text")
    return value


def _id(values: Object, name: str, size: int) -> bytes:
    """An id in hexadecimal digits of any case; empty where there is none."""
    value = _text(values, name)
    if value:
        try:
            raw = bytes.fromhex(value)
        except ValueError:
            raw = b""
        # fromhex skips blanks, hence the length of the text.
        if len(raw) != size or len(value) != 2 * size:
            raise BrokenJson(f"{name} is not {2 * size} hexadecimal digits")
        return raw
    return b""


def _link_ids(link: Object) -> tuple[bytes, int]:
    """What a link refers to; where that is no id an empty one, for which the builder leaves the link out."""
    try:
        return _id(link, "traceId", 16) or bytes(16), int.from_bytes(_id(link, "spanId", 8), "big")
    except BrokenJson:
        return b"", 0


def _enum(values: Object, name: str, names: Mapping[str, int]) -> int:
    value = _field(values, name)
    if isinstance(value, str) and value in names:
        return names[value]
    return _integer(values, name)


def _integer(values: Object, name: str) -> int:
    value = _field(values, name)
    return 0 if value is None else _as_integer(value, name)


def _as_integer(value: Any, name: str) -> int:
    """A whole number, given as number or decimal text, exact beyond 2^53."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.removeprefix("-").isdigit():
        return int(value)
    if isinstance(value, str) and len(value) <= 40:
        # "1.5e9" is a legal way to write a 64-bit number in protobuf's JSON.
        try:
            value = float(value)
        except ValueError:
            raise BrokenJson(f"{name} is not a whole number") from None
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    raise BrokenJson(f"{name} is not a whole number")


def _uint32(values: Object, name: str) -> int:
    value = _integer(values, name)
    if not 0 <= value < 2**32:
        raise BrokenJson(f"{name} is out of range")
    return value


def _attributes(values: Object, notes: dict[str, None]) -> dict[str, AttributeValue]:
    items = _field(values, "attributes")
    return {} if items is None else key_values(items, 1, notes)


def key_values(items: Any, depth: int, notes: dict[str, None]) -> dict[str, AttributeValue]:
    """Attributes from KeyValue objects; `notes` hears what was cut. Raises BrokenJson with what is wrong."""
    if not isinstance(items, list):
        raise BrokenJson("attributes are not a list")
    found: dict[str, AttributeValue] = {}
    for item in items:
        if not isinstance(item, Mapping):
            raise BrokenJson("an attribute is not an object")
        if _field(item, "keyStrindex"):
            notes[STRING_TABLE] = None
        value = _field(item, "value")
        found[_text(item, "key")] = _value({} if value is None else value, depth, notes)
    return found


def _value(value: Any, depth: int, notes: dict[str, None]) -> AttributeValue:
    """The value of an AnyValue object; the last of several fields counts, as it does on the wire."""
    if not isinstance(value, Mapping):
        raise BrokenJson("an attribute value is not an object")
    result: AttributeValue = None
    for name, inner in value.items():
        if inner is None:
            continue
        match name:
            case "stringValue" | "string_value":
                if not isinstance(inner, str):
                    raise BrokenJson("stringValue is not a text")
                result = inner
            case "boolValue" | "bool_value":
                if not isinstance(inner, bool):
                    raise BrokenJson("boolValue is not true or false")
                result = inner
            case "intValue" | "int_value":
                result = _as_integer(inner, "intValue")
                if not -(2**63) <= result < 2**63:
                    raise BrokenJson("intValue is out of range")
            case "doubleValue" | "double_value":
                result = _double(inner)
            case "bytesValue" | "bytes_value":
                result = _bytes(inner)
            case "arrayValue" | "array_value" | "kvlistValue" | "kvlist_value":
                if not isinstance(inner, Mapping):
                    raise BrokenJson(f"{name} is not an object")
                if depth > MAX_DEPTH:
                    notes[CUT_DEPTH] = None
                    result = TOO_DEEP
                    continue
                items = _field(inner, "values")
                if name.startswith("kvlist"):
                    result = key_values([] if items is None else items, depth + 1, notes)
                elif items is None or isinstance(items, list):
                    result = [_value({} if item is None else item, depth + 1, notes) for item in items or ()]
                else:
                    raise BrokenJson("arrayValue.values is not a list")
            case "stringValueStrindex" | "string_value_strindex":
                notes[STRING_TABLE] = None
                result = None
            case _:
                pass
    return result


def _double(value: Any) -> float:
    if isinstance(value, str) and value.lower() not in ("nan", "inf", "-inf", "+inf") and len(value) <= 400:
        try:
            return float(value)
        except ValueError:
            pass
    elif value == "NaN":
        return math.nan
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    raise BrokenJson("doubleValue is not a number")


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        padded = value + "=" * (-len(value) % 4)
        try:
            return urlsafe_b64decode(padded) if "-" in value or "_" in value else b64decode(padded, validate=True)
        except (Base64Error, ValueError):
            pass
    raise BrokenJson("bytesValue is not base64")
