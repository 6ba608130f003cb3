"""A private copy of OTLP's trace messages in which attributes and texts are bytes: same wire format, other promises.

Google's parser then leaves attributes alone, so that equal ones are decoded once (`app.otlp.wire`), and checks no
text's encoding, so that a broken text costs only itself. Field numbers are those of opentelemetry-proto 1.11.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_BYTES = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
_UINT32 = descriptor_pb2.FieldDescriptorProto.TYPE_UINT32
_INT32 = descriptor_pb2.FieldDescriptorProto.TYPE_INT32
_FIXED32 = descriptor_pb2.FieldDescriptorProto.TYPE_FIXED32
_FIXED64 = descriptor_pb2.FieldDescriptorProto.TYPE_FIXED64

_PACKAGE = "spanwise.otlp"

# message: field: (number, type or message, repeated)
MESSAGES: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "Request": {"resource_spans": (1, "ResourceSpans", True)},
    "ResourceSpans": {
        "resource": (1, "Resource", False),
        "scope_spans": (2, "ScopeSpans", True),
        "schema_url": (3, _BYTES, False),
        # Before OTLP 0.15 scopes were called instrumentation libraries, with the same fields at the same numbers.
        "instrumentation_library_spans": (1000, "ScopeSpans", True),
    },
    "Resource": {"attributes": (1, _BYTES, True), "dropped_attributes_count": (2, _UINT32, False)},
    "ScopeSpans": {
        "scope": (1, "Scope", False),
        "spans": (2, "Span", True),
        "schema_url": (3, _BYTES, False),
    },
    "Scope": {
        "name": (1, _BYTES, False),
        "version": (2, _BYTES, False),
        "attributes": (3, _BYTES, True),
        "dropped_attributes_count": (4, _UINT32, False),
    },
    "Span": {
        "trace_id": (1, _BYTES, False),
        "span_id": (2, _BYTES, False),
        "trace_state": (3, _BYTES, False),
        "parent_span_id": (4, _BYTES, False),
        "name": (5, _BYTES, False),
        "kind": (6, _INT32, False),
        "start_time_unix_nano": (7, _FIXED64, False),
        "end_time_unix_nano": (8, _FIXED64, False),
        "attributes": (9, _BYTES, True),
        "dropped_attributes_count": (10, _UINT32, False),
        "events": (11, "Event", True),
        "dropped_events_count": (12, _UINT32, False),
        "links": (13, "Link", True),
        "dropped_links_count": (14, _UINT32, False),
        "status": (15, "Status", False),
        "flags": (16, _FIXED32, False),
    },
    "Event": {
        "time_unix_nano": (1, _FIXED64, False),
        "name": (2, _BYTES, False),
        "attributes": (3, _BYTES, True),
        "dropped_attributes_count": (4, _UINT32, False),
    },
    "Link": {
        "trace_id": (1, _BYTES, False),
        "span_id": (2, _BYTES, False),
        "trace_state": (3, _BYTES, False),
        "attributes": (4, _BYTES, True),
        "dropped_attributes_count": (5, _UINT32, False),
        "flags": (6, _FIXED32, False),
    },
    "Status": {"message": (2, _BYTES, False), "code": (3, _INT32, False)},
}

LEFT_OUT = frozenset({"Resource.entity_refs"})
"""OTLP fields that are read past: entity references name attributes of the resource, which are kept themselves."""


def _pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="spanwise/otlp.proto", package=_PACKAGE, syntax="proto3")
    # For decoders of columns: events and links are rare, and bytes cost nothing.
    raw = {"events": (11, _BYTES, True), "links": (13, _BYTES, True)}
    messages = MESSAGES | {
        "RawRequest": {"resource_spans": (1, "RawResourceSpans", True)},
        "RawResourceSpans": {
            **MESSAGES["ResourceSpans"],
            "scope_spans": (2, "RawScopeSpans", True),
            "instrumentation_library_spans": (1000, "RawScopeSpans", True),
        },
        "RawScopeSpans": MESSAGES["ScopeSpans"] | {"spans": (2, "RawSpan", True)},
        "RawSpan": MESSAGES["Span"] | raw,
    }
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        for name, (number, kind, repeated) in fields.items():
            field = message.field.add(name=name, number=number)
            field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type, field.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL = _pool()


def _message_class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


Request = _message_class("Request")
"""ExportTraceServiceRequest, and TracesData, which has the same fields."""

Event, Link = _message_class("Event"), _message_class("Link")

RawRequest = _message_class("RawRequest")
"""The same with events and links as bytes, too."""
