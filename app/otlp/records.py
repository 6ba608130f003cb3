"""Spans as plain Python records, and the builder that turns them into a `Batch`: the common road of all decoders.

A decoder fills records and calls `BatchBuilder.add`; validation, promotion, hashing and counting happen there once,
so that the same span gives the same row whatever encoding or file format brought it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from analysis import semantics
from analysis.attributes import text
from analysis.normalise import content_hash64
from analysis.semantics import ParentOrigin, parent_origin
from app.otlp.attributes import AttributeValue, attributes_json, clean
from app.otlp.columns import EVENTS, LINKS, RESOURCES, SCOPES, SPANS, Batch
from app.otlp.counts import Counts
from app.otlp.hashing import Mask, Words, first_of_each, member_hash_sums, span_hashes
from app.otlp.promotion import EncodedAttributes, encode_attributes, last_exception, promoted, shape_of
from app.otlp.shapes import Shapes

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


class Process(NamedTuple):
    """What a resource gives to its spans, in the order of `SHAPES`."""

    service: str
    instance: str
    host: str
    service_version: str


@dataclass(frozen=True, slots=True)
class ResourceRecord:
    resource_id: int
    process: Process

    @property
    def service(self) -> str:
        return self.process.service


@dataclass(frozen=True, slots=True)
class ScopeRecord:
    scope_id: int
    name: str


class BatchBuilder:
    """Collects span records into one batch; the order of spans is kept.

    `resource` and `scope` may be called again with equal content: they return an equal record and store one row.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[object, ...]] = []
        self._members: list[tuple[str, ...]] = []
        self._events: list[tuple[int, tuple[object, ...]]] = []
        self._links: list[tuple[int, tuple[object, ...]]] = []
        self._resources: dict[int, tuple[object, ...]] = {}
        self._scopes: dict[int, tuple[object, ...]] = {}
        self._processes: dict[int, Process] = {}
        self.shapes = Shapes()
        self.counts = Counts()

    def __len__(self) -> int:
        return len(self._rows)

    def resource(
        self, attributes: dict[str, AttributeValue], dropped_attributes_count: int = 0, schema_url: str = ""
    ) -> ResourceRecord:
        json_text, schema_url = attributes_json(attributes), clean(schema_url)
        resource_id = _content_hash((json_text, schema_url), dropped_attributes_count)
        if resource_id not in self._resources:
            service = clean(text(attributes, "service.name")) or UNKNOWN_SERVICE
            self._resources[resource_id] = (resource_id, service, json_text, dropped_attributes_count, schema_url)
            self._processes[resource_id] = Process(
                service,
                clean(semantics.process_key(attributes)),
                clean(semantics.host_key(attributes)),
                clean(text(attributes, "service.version")),
            )
        return ResourceRecord(resource_id, self._processes[resource_id])

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
        """Takes one span; False where it was refused (bad ids, no start time, time out of range)."""
        reason = _refusal(span)
        if reason:
            self.reject(reason, where or f"span {self.counts.found + 1} ({resource.service} {clean(span.name)[:80]})")
            return False
        self.counts.found += 1
        _mend(span)
        encoded = span.encoded or encode_attributes(span.attributes)
        origin = (
            ParentOrigin(span.parent_origin) if span.parent_origin else parent_origin(span.parent_span_id, span.flags)
        )
        events = [_event_row(position, event) for position, event in enumerate(span.events)]
        links = [_link_row(position, link) for position, link in enumerate(span.links)]
        notes = "; ".join(dict.fromkeys(span.notes)) if span.notes else ""
        rest = content_hash64(repr((events, links))) if events or links else 0
        process = resource.process
        self.counts.sender(process.service)
        duration_ns = span.end_ns - span.start_ns
        facts = promoted(
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
        shape = shape_of(
            span.kind,
            origin,
            process,
            scope.name,
            span.name,
            span.status_code,
            facts,
            resource.resource_id,
            scope.scope_id,
            span.flags,
            (span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count),
        )
        self._rows.append(
            (
                span.trace_id,
                span.span_id,
                span.parent_span_id,
                self.shapes.place(shape),
                span.start_ns,
                duration_ns,
                *facts[9:],
                rest,
                span.status_message,
                span.trace_state,
                notes,
                encoded.text,
            )
        )
        self._members.append(encoded.members)
        row = len(self._rows) - 1
        self._events.extend([(row, event) for event in events])
        self._links.extend([(row, link) for link in links])
        return True

    def reject(self, reason: str, where: str = "", count: int = 1) -> None:
        """Counts spans that a decoder had to refuse before it could make a record of them."""
        self.counts.reject(reason, where, count)

    def unreadable(self, reason: str, where: str = "") -> None:
        """Counts a line or document that could not be read at all."""
        self.counts.unreadable(reason, where)

    def other_signal(self, count: int = 1) -> None:
        """Counts documents that hold logs, metrics or profiles."""
        self.counts.other_signals += count

    def joined(self, count: int = 1) -> None:
        """Counts spans that a format made part of another one (Zipkin's two halves of a shared span)."""
        self.counts.found += count
        self.counts.joined += count

    def re_identified(self, count: int = 1) -> None:
        """Counts spans that were given a new id because theirs was not unique."""
        self.counts.re_identified += count

    def warn(self, message: str) -> None:
        """Keeps a remark for the sender, once; at most 32."""
        self.counts.warn(message)

    def finish(self) -> Batch:
        """The batch, without spans that repeat an earlier one exactly; the builder may be used no more."""
        columns, hashes = self.span_columns()
        kept = first_of_each(hashes)
        spans = pa.table(columns, schema=SPANS)
        if not kept.all():
            spans = spans.filter(pa.array(kept))
        return Batch(spans, *self.other_tables(hashes, kept), self.counts.tally(spans.num_rows))

    def span_columns(self) -> tuple[dict[str, pa.Array], Words]:
        """The columns of all spans, repeats too, and their hashes."""
        columns = _arrays(self._rows, SPANS)
        shapes = self.shapes.hash_of(columns["shape"].to_pylist())
        hashes = span_hashes(columns, shapes, member_hash_sums(self._members), columns["span_hash"].to_numpy())
        columns["span_hash"] = pa.array(hashes)
        return columns, hashes

    def detail_rows(self) -> tuple[list[int], list[int]]:
        """For each event and for each link the row of its span."""
        return [row for row, _ in self._events], [row for row, _ in self._links]

    def other_tables(self, hashes: Words, kept: Mask) -> tuple[pa.Table, pa.Table, pa.Table, pa.Table, pa.Table]:
        """Shapes, events and links of the spans that are kept, resources, scopes."""
        return (
            self.shapes.table(),
            self._details(self._events, EVENTS, hashes, kept),
            self._details(self._links, LINKS, hashes, kept),
            _table(list(self._resources.values()), RESOURCES),
            _table(list(self._scopes.values()), SCOPES),
        )

    def _details(
        self, details: list[tuple[int, tuple[object, ...]]], schema: pa.Schema, hashes: Words, kept: Mask
    ) -> pa.Table:
        rows = [(*self._rows[row][:2], int(hashes[row]), *values) for row, values in details if kept[row]]
        return _table(rows, schema)


def _table(rows: list[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    return pa.table(_arrays(rows, schema), schema=schema) if rows else schema.empty_table()


def _arrays(rows: list[tuple[object, ...]], schema: pa.Schema) -> dict[str, pa.Array]:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    # pa.uuid() has no conversion from Python values: 16 bytes each, cast without copying.
    return {
        field.name: pa.ExtensionArray.from_storage(field.type, pa.array(column, field.type.storage_type))
        if isinstance(field.type, pa.BaseExtensionType)
        else pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    }


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


def _content_hash(texts: tuple[str, ...], number: int) -> int:
    return content_hash64(f"{number},{','.join(str(len(text)) for text in texts)};{''.join(texts)}")
