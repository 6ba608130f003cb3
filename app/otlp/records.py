"""Spans as plain Python records, and the builder that turns them into a `Batch`: the common road of all decoders.

A decoder fills records and calls `BatchBuilder.add`; validation, promotion, hashing and counting happen there once,
so that the same span gives the same row whatever encoding or file format brought it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from analysis import semantics
from analysis.attributes import text
from analysis.normalise import content_hash64
from analysis.semantics import ParentOrigin, parent_origin
from app.otlp.attributes import AttributeValue, attributes_json, clean
from app.otlp.columns import EVENTS, LINKS, RESOURCES, SCOPES, SPANS, Batch, Rejection, Tally
from app.otlp.promotion import EncodedAttributes, encode_attributes, last_exception, promoted_columns

UNKNOWN_SERVICE = "unknown_service"
NO_NAME = "(no name)"

_NO_TRACE = bytes(16)


@dataclass(slots=True)
class EventRecord:
    time_ns: int
    name: str
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    dropped_attributes_count: int = 0


@dataclass(slots=True)
class LinkRecord:
    trace_id: bytes
    span_id: int
    trace_state: str = ""
    flags: int = 0
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    dropped_attributes_count: int = 0


@dataclass(slots=True)
class SpanRecord:
    """One span; a field of OTLP's Span message each, ids as 16 bytes and 64-bit integers."""

    trace_id: bytes
    span_id: int
    name: str
    kind: int
    start_ns: int
    end_ns: int
    parent_span_id: int = 0
    trace_state: str = ""
    flags: int = 0
    status_code: int = 0
    status_message: str = ""
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    dropped_attributes_count: int = 0
    events: list[EventRecord] = field(default_factory=list)
    dropped_events_count: int = 0
    links: list[LinkRecord] = field(default_factory=list)
    dropped_links_count: int = 0
    parent_origin: str = ""
    """Set by file formats that see the whole trace; empty: derived from `flags`."""
    notes: list[str] = field(default_factory=list)
    """What was mended (invalid UTF-8, end before start …), shown on the trace page."""
    start_known: bool = False
    """True where a start of 0 was really said (Jaeger files count from 0); in OTLP 0 means that there is none."""
    encoded: EncodedAttributes | None = None
    """`attributes` as they are stored, where a decoder has them already."""


@dataclass(frozen=True, slots=True)
class ResourceRecord:
    resource_id: int
    service: str
    attributes: dict[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class ScopeRecord:
    scope_id: int
    name: str


class BatchBuilder:
    """Collects span records into one batch; the order of spans is kept.

    `resource` and `scope` may be called again with equal content: they return an equal record and store one row.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[object, ...]] = []
        self._events: list[tuple[object, ...]] = []
        self._links: list[tuple[object, ...]] = []
        self._resources: dict[int, tuple[object, ...]] = {}
        self._scopes: dict[int, tuple[object, ...]] = {}
        self._processes: dict[int, _Process] = {}
        self._hashes: set[int] = set()
        self._found = self._joined = self._duplicates = self._other_signals = self._re_identified = 0
        self._rejected: dict[str, tuple[int, str]] = {}
        self._unreadable: dict[str, tuple[int, str]] = {}
        self._warnings: dict[str, None] = {}
        self._senders: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._spans)

    def resource(
        self, attributes: dict[str, AttributeValue], dropped_attributes_count: int = 0, schema_url: str = ""
    ) -> ResourceRecord:
        json_text, schema_url = attributes_json(attributes), clean(schema_url)
        resource_id = _content_hash((json_text, schema_url), dropped_attributes_count)
        if resource_id not in self._resources:
            service = clean(text(attributes, "service.name")) or UNKNOWN_SERVICE
            self._resources[resource_id] = (resource_id, service, json_text, dropped_attributes_count, schema_url)
            self._processes[resource_id] = _Process(
                service,
                clean(semantics.process_key(attributes)),
                clean(semantics.host_key(attributes)),
                clean(text(attributes, "service.version")),
            )
        return ResourceRecord(resource_id, self._processes[resource_id].service, attributes)

    def scope(
        self,
        name: str,
        version: str = "",
        attributes: dict[str, AttributeValue] | None = None,
        dropped_attributes_count: int = 0,
        schema_url: str = "",
    ) -> ScopeRecord:
        name, version, schema_url = clean(name), clean(version), clean(schema_url)
        text = attributes_json(attributes or {})
        scope_id = _content_hash((name, version, text, schema_url), dropped_attributes_count)
        self._scopes[scope_id] = (scope_id, name, version, text, dropped_attributes_count, schema_url)
        return ScopeRecord(scope_id, name)

    def add(self, span: SpanRecord, resource: ResourceRecord, scope: ScopeRecord, where: str = "") -> bool:
        """Takes one span; False where it was refused (bad ids, no start time, time out of range) or repeats exactly."""
        reason = _refusal(span)
        if reason:
            self.reject(reason, where or f"span {self._found + 1} ({resource.service} {clean(span.name)[:80]})")
            return False
        self._found += 1
        _mend(span)
        encoded = span.encoded or encode_attributes(span.attributes)
        origin = (
            ParentOrigin(span.parent_origin) if span.parent_origin else parent_origin(span.parent_span_id, span.flags)
        )
        events = [_event_row(position, event) for position, event in enumerate(span.events)]
        links = [_link_row(position, link) for position, link in enumerate(span.links)]
        notes = "; ".join(dict.fromkeys(span.notes)) if span.notes else ""
        span_hash = _span_hash(span, encoded.text, origin, notes, resource.resource_id, scope.scope_id, events, links)
        if span_hash in self._hashes:
            self._duplicates += 1
            return False
        self._hashes.add(span_hash)
        process = self._processes[resource.resource_id]
        self._senders[process.service] = None
        duration_ns = span.end_ns - span.start_ns
        promoted = promoted_columns(
            span.kind,
            span.name,
            scope.name,
            span.status_code,
            span.status_message,
            origin,
            last_exception((event.name, event.attributes) for event in span.events) if events else None,
            bool(events),
            span.attributes,
            encoded.semantic,
        )
        self._spans.append(
            (
                span.trace_id,
                span.span_id,
                span.parent_span_id,
                origin,
                span.kind,
                *process,
                scope.name,
                span.name,
                *promoted[:4],
                span.start_ns,
                duration_ns,
                span.status_code,
                span.status_message,
                *promoted[4:],
                span_hash,
                resource.resource_id,
                scope.scope_id,
                span.trace_state,
                span.flags,
                encoded.text,
                span.dropped_attributes_count,
                span.dropped_events_count,
                span.dropped_links_count,
                notes,
            )
        )
        if events or links:
            identity = (span.trace_id, span.span_id, span_hash)
            self._events.extend([identity + row for row in events])
            self._links.extend([identity + row for row in links])
        return True

    def reject(self, reason: str, where: str = "", count: int = 1) -> None:
        """Counts spans that a decoder had to refuse before it could make a record of them."""
        self._found += count
        _count(self._rejected, reason, where, count)

    def unreadable(self, reason: str, where: str = "") -> None:
        """Counts a line or document that could not be read at all."""
        _count(self._unreadable, reason, where, 1)

    def other_signal(self, count: int = 1) -> None:
        """Counts documents that hold logs, metrics or profiles."""
        self._other_signals += count

    def joined(self, count: int = 1) -> None:
        """Counts spans that a format made part of another one (Zipkin's two halves of a shared span)."""
        self._found += count
        self._joined += count

    def re_identified(self, count: int = 1) -> None:
        """Counts spans that were given a new id because theirs was not unique."""
        self._re_identified += count

    def warn(self, message: str) -> None:
        """Keeps a remark for the sender, once; at most 32."""
        if len(self._warnings) < 32:
            self._warnings[clean(message)] = None

    def finish(self) -> Batch:
        """The batch; the builder may be used no more."""
        tally = Tally(
            found=self._found,
            accepted=len(self._spans),
            joined=self._joined,
            duplicates=self._duplicates,
            rejected=tuple(Rejection(reason, *rest) for reason, rest in self._rejected.items()),
            unreadable=tuple(Rejection(reason, *rest) for reason, rest in self._unreadable.items()),
            other_signals=self._other_signals,
            re_identified=self._re_identified,
            warnings=tuple(self._warnings),
            senders=tuple(list(self._senders)[:32]),
        )
        return Batch(
            _table(self._spans, SPANS),
            _table(self._events, EVENTS),
            _table(self._links, LINKS),
            _table(list(self._resources.values()), RESOURCES),
            _table(list(self._scopes.values()), SCOPES),
            tally,
        )


class _Process(NamedTuple):
    """The columns that a resource gives to its spans, in the order of `SPANS`."""

    service: str
    instance: str
    host: str
    service_version: str


def _table(rows: list[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    # pa.uuid() has no conversion from Python values: 16 bytes each, cast without copying.
    return pa.table(
        [
            pa.ExtensionArray.from_storage(field.type, pa.array(column, field.type.storage_type))
            if isinstance(field.type, pa.BaseExtensionType)
            else pa.array(column, field.type)
            for column, field in zip(columns, schema, strict=True)
        ],
        schema=schema,
    )


def _count(counts: dict[str, tuple[int, str]], reason: str, where: str, count: int) -> None:
    # Reasons may quote the input: 64 different ones tell enough, and answers stay small.
    if reason not in counts and len(counts) >= 64:
        reason = "other reasons"
    known, first = counts.get(reason, (0, clean(where)))
    counts[reason] = (known + count, first)


def _refusal(span: SpanRecord) -> str:
    """Why the span cannot be stored; empty where it can."""
    if len(span.trace_id) != 16:
        return "trace id is not 16 bytes" if span.trace_id else "trace id is missing"
    if span.trace_id == _NO_TRACE:
        return "trace id is all zero"
    if not 0 < span.span_id < 2**64:
        return "span id is missing or all zero" if span.span_id == 0 else "span id is not 8 bytes"
    if not 0 <= span.parent_span_id < 2**64:
        return "parent span id is not 8 bytes"
    if span.start_ns == 0 and not span.start_known:
        return "no start time"
    if not (0 <= span.start_ns < 2**63 and 0 <= span.end_ns < 2**63):
        return "time out of range"
    counts = span.flags | span.dropped_attributes_count | span.dropped_events_count | span.dropped_links_count
    for event in span.events:
        counts |= event.dropped_attributes_count
    for link in span.links:
        counts |= link.dropped_attributes_count | link.flags
    return "flags or count out of range" if counts >> 32 else ""


def _mend(span: SpanRecord) -> None:
    """Makes every field fit its column; what a reader should know goes to the span's notes."""
    if span.end_ns < span.start_ns:
        span.notes.append("no end time" if span.end_ns == 0 else "end before start")
        span.end_ns = span.start_ns
    span.name = clean(span.name)
    if not span.name:
        span.notes.append("no name")
        span.name = NO_NAME
    span.status_message = clean(span.status_message)
    span.trace_state = clean(span.trace_state)
    if not 0 <= span.kind < 256:
        span.notes.append(f"unknown kind {span.kind}")
        span.kind = 0
    if not 0 <= span.status_code < 256:
        span.notes.append(f"unknown status {span.status_code}")
        span.status_code = 0
    for event in span.events:
        if not 0 <= event.time_ns < 2**63:
            span.notes.append("event time out of range")
            event.time_ns = span.start_ns
    kept = [link for link in span.links if len(link.trace_id) == 16 and 0 <= link.span_id < 2**64]
    if len(kept) < len(span.links):
        span.notes.append(f"{len(span.links) - len(kept)} links with ids of a wrong length left out")
        span.links = kept


def _event_row(position: int, event: EventRecord) -> tuple[object, ...]:
    text = attributes_json(event.attributes)
    return position, event.time_ns, clean(event.name), text, event.dropped_attributes_count


def _link_row(position: int, link: LinkRecord) -> tuple[object, ...]:
    text, state = attributes_json(link.attributes), clean(link.trace_state)
    return position, link.trace_id, link.span_id, state, link.flags, text, link.dropped_attributes_count


_FIXED = struct.Struct("<16sQQBBqqIIIIQQ")


def _span_hash(
    span: SpanRecord,
    attributes: str,
    origin: str,
    notes: str,
    resource_id: int,
    scope_id: int,
    events: list[tuple[object, ...]],
    links: list[tuple[object, ...]],
) -> int:
    fixed = _FIXED.pack(
        span.trace_id,
        span.span_id,
        span.parent_span_id,
        span.kind,
        span.status_code,
        span.start_ns,
        span.end_ns,
        span.flags,
        span.dropped_attributes_count,
        span.dropped_events_count,
        span.dropped_links_count,
        resource_id,
        scope_id,
    )
    rest = repr((events, links)) if events or links else ""
    name, message, state = span.name, span.status_message, span.trace_state
    # Lengths first: no two contents give the same bytes, whatever characters they hold.
    lengths = f"{len(name)},{len(message)},{len(state)},{len(origin)},{len(notes)},{len(attributes)},{len(rest)};"
    return content_hash64(fixed + f"{lengths}{name}{message}{state}{origin}{notes}{attributes}{rest}".encode())


def _content_hash(texts: tuple[str, ...], number: int) -> int:
    return content_hash64(f"{number},{','.join(str(len(text)) for text in texts)};{''.join(texts)}")
