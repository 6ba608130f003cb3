"""OTLP JSON requests that look as usual, as protobuf bytes of the same message: their spans then become columns.

Only what both encodings say alike is turned over; anything else (other spellings, nulls, unknown fields, values that
have to be mended or refused) is left to `app.otlp.json_records`. Each distinct attribute is encoded once, within a
bound. Tags such as b"\\x2a" are `field number << 3 | wire type` of opentelemetry/proto/trace/v1/trace.proto and
common/v1/common.proto.
"""

from __future__ import annotations

import json
from struct import Struct

import msgspec

from app.otlp.attributes import AttributeValue
from app.otlp.json_records import BrokenJson, key_values

_KEPT_ATTRIBUTES = 32_768
_KEPT_ATTRIBUTE_BYTES = 256
"""Together 16 MiB at most."""
_MAX_KIND, _MAX_STATUS = 5, 2
_TIMES = Struct("<cQcQ")
_TIME = Struct("<cQ")
_FLAGS = Struct("<2sI")
_DOUBLE = Struct("<cd")
_LIMIT_32, _LIMIT_63 = 2**32, 2**63
_UNSET = msgspec.UNSET


class _Unusual(Exception):
    """The request has to go the other way."""


class _Message(msgspec.Struct, forbid_unknown_fields=True, rename="camel", gc=False):
    """A message of OTLP by its JSON names; an unknown name or another type of value is an error."""


class _Link(_Message):
    trace_id: str
    span_id: str
    trace_state: str = ""
    attributes: list[msgspec.Raw] = []
    dropped_attributes_count: int = 0
    flags: int = 0


class _Event(_Message):
    time_unix_nano: str | int = 0
    name: str = ""
    attributes: list[msgspec.Raw] = []
    dropped_attributes_count: int = 0


class _Status(_Message):
    message: str = ""
    code: int = 0


class _Span(_Message):
    trace_id: str
    span_id: str
    start_time_unix_nano: str | int
    end_time_unix_nano: str | int = 0
    name: str = ""
    kind: int = 0
    parent_span_id: str = ""
    trace_state: str = ""
    attributes: list[msgspec.Raw] = []
    dropped_attributes_count: int = 0
    events: list[_Event] = []
    dropped_events_count: int = 0
    links: list[_Link] = []
    dropped_links_count: int = 0
    status: _Status | None = None
    flags: int = 0


class _Scope(_Message):
    name: str = ""
    version: str = ""
    attributes: list[msgspec.Raw] = []
    dropped_attributes_count: int = 0


class _ScopeSpans(_Message):
    scope: _Scope | None = None
    spans: list[_Span] = []
    schema_url: str = ""


class _Resource(_Message):
    attributes: list[msgspec.Raw] = []
    dropped_attributes_count: int = 0


class _ResourceSpans(_Message):
    resource: _Resource | None = None
    scope_spans: list[_ScopeSpans] = []
    schema_url: str = ""


class _Request(_Message):
    resource_spans: list[_ResourceSpans] = []


class _Value(_Message):
    string_value: str | msgspec.UnsetType = msgspec.UNSET
    int_value: str | int | msgspec.UnsetType = msgspec.UNSET
    double_value: float | msgspec.UnsetType = msgspec.UNSET
    bool_value: bool | msgspec.UnsetType = msgspec.UNSET


class _KeyValue(_Message):
    key: str
    value: _Value


_read_request = msgspec.json.Decoder(_Request).decode
_read_key_value = msgspec.json.Decoder(_KeyValue).decode


def protobuf_of(body: bytes) -> bytes | None:
    """The ExportTraceServiceRequest in a JSON body as protobuf bytes; None where it does not look as usual."""
    try:
        request = _read_request(body)
        return b"".join(_nested(b"\x0a", _resource_spans(each)) for each in request.resource_spans)
    except (msgspec.MsgspecError, _Unusual, ValueError, RecursionError, BrokenJson):
        return None


def _resource_spans(resource_spans: _ResourceSpans) -> bytes:
    parts = []
    if resource := resource_spans.resource:
        parts.append(_nested(b"\x0a", _attributes(b"\x0a", resource.attributes) + _count(b"\x10", resource)))
    parts += [_nested(b"\x12", _scope_spans(each)) for each in resource_spans.scope_spans]
    return b"".join((*parts, _text(b"\x1a", resource_spans.schema_url)))


def _scope_spans(scope_spans: _ScopeSpans) -> bytes:
    parts = []
    if scope := scope_spans.scope:
        names = _text(b"\x0a", scope.name) + _text(b"\x12", scope.version)
        parts.append(_nested(b"\x0a", names + _attributes(b"\x1a", scope.attributes) + _count(b"\x20", scope)))
    parts += [_nested(b"\x12", _span(span)) for span in scope_spans.spans]
    return b"".join((*parts, _text(b"\x1a", scope_spans.schema_url)))


def _span(span: _Span) -> bytes:
    start_ns, end_ns = _time_ns(span.start_time_unix_nano), _time_ns(span.end_time_unix_nano)
    kind = span.kind
    if not start_ns or not 0 <= kind <= _MAX_KIND:
        raise _Unusual
    parts = [
        _ids(span.trace_id, span.span_id),
        _text(b"\x2a", span.name),
        b"\x30",
        _LENGTHS[kind],
        _TIMES.pack(b"\x39", start_ns, b"\x41", end_ns),
    ]
    if span.parent_span_id:
        parts += (b"\x22\x08", _hexadecimal(span.parent_span_id, 8))
    if span.attributes:
        parts.append(_attributes(b"\x4a", span.attributes))
    if span.flags:
        parts.append(_FLAGS.pack(b"\x85\x01", _number(span.flags)))
    if status := span.status:
        if not 0 <= status.code <= _MAX_STATUS:
            raise _Unusual
        code = b"\x18" + _LENGTHS[status.code] if status.code else b""
        parts.append(_nested(b"\x7a", _text(b"\x12", status.message) + code))
    if span.trace_state:
        parts.append(_text(b"\x1a", span.trace_state))
    if span.events:
        parts += [_nested(b"\x5a", _event(event)) for event in span.events]
    if span.links:
        parts += [_nested(b"\x6a", _link(link)) for link in span.links]
    for tag, count in (
        (b"\x50", span.dropped_attributes_count),
        (b"\x60", span.dropped_events_count),
        (b"\x70", span.dropped_links_count),
    ):
        if count:
            parts += (tag, _varint(_number(count)))
    return b"".join(parts)


def _event(event: _Event) -> bytes:
    times = _TIME.pack(b"\x09", _time_ns(event.time_unix_nano))
    return times + _text(b"\x12", event.name) + _attributes(b"\x1a", event.attributes) + _count(b"\x20", event)


def _link(link: _Link) -> bytes:
    flags = b"\x35" + _number(link.flags).to_bytes(4, "little") if link.flags else b""
    rest = _text(b"\x1a", link.trace_state) + _attributes(b"\x22", link.attributes) + _count(b"\x28", link)
    return _ids(link.trace_id, link.span_id) + rest + flags


def _attributes(tag: bytes, raws: list[msgspec.Raw]) -> bytes:
    if not raws:
        return b""
    texts = list(map(bytes, raws))
    known = list(map(_known.get, texts))
    encoded = [_encoded(text) if one is None else one for text, one in zip(texts, known, strict=True)]
    return tag + tag.join(encoded)


_known: dict[bytes, bytes] = {}


def _encoded(raw: bytes) -> bytes:
    """One attribute's JSON as a KeyValue with its length before it."""
    try:
        encoded = _simple_attribute(_read_key_value(raw))
    except msgspec.MsgspecError:
        encoded = _other_attribute(raw)
    if len(raw) <= _KEPT_ATTRIBUTE_BYTES:
        if len(_known) >= _KEPT_ATTRIBUTES:
            _known.clear()
        _known[raw] = encoded
    return encoded


def _simple_attribute(pair: _KeyValue) -> bytes:
    text, number, double, flag = msgspec.structs.astuple(pair.value)
    if (text is _UNSET) + (number is _UNSET) + (double is _UNSET) + (flag is _UNSET) != 3:
        # Of several the last one given counts, and their order is lost here.
        raise msgspec.ValidationError
    if text is _UNSET:
        value = _integer(number) if number is not _UNSET else double if double is not _UNSET else flag
        return _nested(b"", _pair(pair.key, value))
    key: bytes = pair.key.encode()
    words: bytes = text.encode()
    if not 0 < len(key) < 60 or len(words) >= 60:
        return _nested(b"", _pair(pair.key, text))
    # Nearly all: two lengths of a byte each inside a third one.
    end = b"\x12" + _LENGTHS[len(words) + 2] + b"\x0a" + _LENGTHS[len(words)] + words
    return _LENGTHS[len(key) + len(end) + 2] + b"\x0a" + _LENGTHS[len(key)] + key + end


def _integer(value: str | int) -> int:
    number = value if isinstance(value, int) else _digits(value.removeprefix("-")) * (-1 if value[:1] == "-" else 1)
    if not -_LIMIT_63 <= number < _LIMIT_63:
        raise _Unusual
    return number


def _other_attribute(raw: bytes) -> bytes:
    """Arrays, maps, bytes and what is spelled otherwise, by the rules of `app.otlp.json_records`."""
    notes: dict[str, None] = {}
    [(key, value)] = key_values([json.loads(raw)], 1, notes).items()
    if notes:
        raise _Unusual
    return _nested(b"", _pair(key, value))


def _pair(key: str, value: AttributeValue) -> bytes:
    return _text(b"\x0a", key) + _nested(b"\x12", _any_value(value))


def _any_value(value: AttributeValue) -> bytes:
    match value:
        case None:
            return b""
        case bool():
            return b"\x10" + _LENGTHS[value]
        case int():
            return b"\x18" + _varint(value % 2**64)
        case float():
            return _DOUBLE.pack(b"\x21", value)
        case str():
            return _nested(b"\x0a", value.encode())
        case bytes():
            return _nested(b"\x3a", value)
        case list():
            return _nested(b"\x2a", b"".join(_nested(b"\x0a", _any_value(one)) for one in value))
        case _:
            return _nested(b"\x32", b"".join(_nested(b"\x0a", _pair(key, one)) for key, one in value.items()))


def _text(tag: bytes, text: str) -> bytes:
    return _nested(tag, text.encode()) if text else b""


def _nested(tag: bytes, content: bytes) -> bytes:
    size = len(content)
    return tag + (_LENGTHS[size] if size < 128 else _varint(size)) + content


def _count(tag: bytes, message: _Resource | _Scope | _Event | _Link) -> bytes:
    count = message.dropped_attributes_count
    return tag + _varint(_number(count)) if count else b""


def _number(value: int) -> int:
    if not 0 <= value < _LIMIT_32:
        raise _Unusual
    return value


def _time_ns(value: str | int) -> int:
    number = value if isinstance(value, int) else _digits(value)
    if not 0 <= number < _LIMIT_63:
        raise _Unusual
    return number


def _digits(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise _Unusual
    return int(text)


def _ids(trace_id: str, span_id: str) -> bytes:
    """Fields 1 and 2 of a span, and of a link."""
    if len(trace_id) != 32:
        raise _Unusual
    raw = _hexadecimal(trace_id + span_id, 24)
    if not any(raw[:16]) or not any(raw[16:]):
        raise _Unusual
    return b"\x0a\x10" + raw[:16] + b"\x12\x08" + raw[16:]


def _hexadecimal(text: str, size: int) -> bytes:
    raw = bytes.fromhex(text)
    # fromhex skips blanks, hence the length of the text.
    if len(raw) != size or len(text) != 2 * size:
        raise _Unusual
    return raw


def _varint(value: int) -> bytes:
    """Little end first, seven bits a byte (protobuf encoding, "Base 128 Varints")."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_LENGTHS = [bytes([number]) for number in range(128)]
