"""OTLP protobuf into batches, span by span; a broken attribute or text costs only itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError as ProtobufError

from app.otlp.attributes import AttributeValue, joined
from app.otlp.columns import Batch
from app.otlp.descriptors import MESSAGES, Request
from app.otlp.errors import DecodeError
from app.otlp.promotion import EncodedAttributes, semantic_key
from app.otlp.records import BatchBuilder, EventRecord, LinkRecord, ResourceRecord, ScopeRecord, SpanRecord
from app.otlp.wire import LENGTH, attributes, fields, text


def decode_by_record(body: bytes) -> Batch:
    """The spans of an ExportTraceServiceRequest. Raises DecodeError where the bytes are none."""
    builder = BatchBuilder()
    add_protobuf_request(builder, body)
    return builder.finish()


def add_protobuf_request(builder: BatchBuilder, body: bytes, where: str = "") -> None:
    """Adds the spans of one request; `where` is put before the place of a refused span. Raises DecodeError."""
    try:
        request = Request.FromString(body)
    except ProtobufError as error:
        raise DecodeError(_what_is_wrong(body)) from error
    for resource_spans in request.resource_spans:
        notes: dict[str, None] = {}
        resource = resource_record(builder, resource_spans.resource, resource_spans.schema_url, notes)
        for groups in (resource_spans.scope_spans, resource_spans.instrumentation_library_spans):
            for scope_spans in groups:
                scope = scope_record(builder, scope_spans.scope, scope_spans.schema_url, notes)
                for number, span in enumerate(scope_spans.spans, 1):
                    builder.add(span_record(span), resource, scope, f"{where}, span {number}" if where else "")
        warn_of(builder, resource, notes)


def resource_record(builder: BatchBuilder, resource: Any, schema_url: bytes, notes: dict[str, None]) -> ResourceRecord:
    """The record of a Resource message; what was mended goes to the notes."""
    attributes = _attributes(resource.attributes, notes)
    return builder.resource(attributes, resource.dropped_attributes_count, text(schema_url, notes))


def scope_record(builder: BatchBuilder, scope: Any, schema_url: bytes, notes: dict[str, None]) -> ScopeRecord:
    """The record of a Scope message; what was mended goes to the notes."""
    return builder.scope(
        text(scope.name, notes),
        text(scope.version, notes),
        _attributes(scope.attributes, notes),
        scope.dropped_attributes_count,
        text(schema_url, notes),
    )


def warn_of(builder: BatchBuilder, resource: ResourceRecord, notes: Iterable[str]) -> None:
    """Tells the sender what was mended in a resource and its scopes."""
    for note in notes:
        builder.warn(f"resource or scope of {resource.service}: {note}")


def span_record(span: Any) -> SpanRecord:
    """The record of a Span message, or of anything with its fields."""
    notes: dict[str, None] = {}
    found = attributes(span.attributes)
    members: dict[str, str] = {}
    values: dict[str, AttributeValue] = {}
    facts: list[str] = []
    for key, value, member, semantic, mended in found:
        members[key] = member
        values[key] = value
        if semantic:
            facts.append(member)
        if mended:
            notes.update(dict.fromkeys(mended))
    encoded = EncodedAttributes(
        joined(members.values()),
        tuple(members.values()),
        "\n".join(sorted(facts)) if len(members) == len(found) else semantic_key(members),
    )
    record = SpanRecord(
        span.trace_id,
        _id64(span.span_id),
        text(span.name, notes),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _id64(span.parent_span_id),
        text(span.trace_state, notes),
        span.flags,
        0,
        "",
        values,
        span.dropped_attributes_count,
        [_event(event, notes) for event in span.events],
        span.dropped_events_count,
        [_link(link, notes) for link in span.links],
        span.dropped_links_count,
        encoded=encoded,
    )
    record.status_code, record.status_message = span.status.code, text(span.status.message, notes)
    if notes:
        record.notes.extend(notes)
    return record


def _attributes(raws: Iterable[bytes], notes: dict[str, None]) -> dict[str, AttributeValue]:
    values: dict[str, AttributeValue] = {}
    for one in attributes(raws):
        values[one.key] = one.value
        notes.update(dict.fromkeys(one.notes))
    return values


def _event(event: Any, notes: dict[str, None]) -> EventRecord:
    return EventRecord(
        event.time_unix_nano,
        text(event.name, notes),
        _attributes(event.attributes, notes),
        event.dropped_attributes_count,
    )


def _link(link: Any, notes: dict[str, None]) -> LinkRecord:
    return LinkRecord(
        link.trace_id or bytes(16),
        _id64(link.span_id),
        text(link.trace_state, notes),
        link.flags,
        _attributes(link.attributes, notes),
        link.dropped_attributes_count,
    )


def _id64(raw: bytes) -> int:
    """An id of 8 bytes; 0 where there is none, -1 for a wrong length, which the builder refuses."""
    return int.from_bytes(raw, "big") if len(raw) == 8 else 0 if not raw else -1


def _what_is_wrong(body: bytes) -> str:
    if body.lstrip()[:1] in (b"{", b"["):
        return "the body is JSON, not protobuf: send it with Content-Type: application/json"
    try:
        _walk(body, 0, len(body), "Request")
    except DecodeError as error:
        return f"not an OTLP trace request in protobuf: {error}"
    return "not an OTLP trace request in protobuf"


def _walk(body: bytes, position: int, end: int, message: str) -> None:
    """Raises DecodeError at the first fault; Google's parser only says that there is one."""
    inner = {number: kind for number, kind, _ in MESSAGES[message].values() if isinstance(kind, str)}
    for number, kind, first, last in fields(body, position, end):
        if kind == LENGTH and number in inner:
            _walk(body, first, last, inner[number])
