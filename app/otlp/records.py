"""Spans as plain Python records, and the builder that turns them into a `Batch`: the common road of all decoders.

A decoder fills records and calls `BatchBuilder.add`; validation, promotion, hashing and counting happen there once,
so that the same span gives the same row whatever encoding or file format brought it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from app.otlp.attributes import AttributeValue
from app.otlp.columns import Batch


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

    def resource(
        self, attributes: dict[str, AttributeValue], dropped_attributes_count: int = 0, schema_url: str = ""
    ) -> ResourceRecord:
        raise NotImplementedError

    def scope(
        self,
        name: str,
        version: str = "",
        attributes: dict[str, AttributeValue] | None = None,
        dropped_attributes_count: int = 0,
        schema_url: str = "",
    ) -> ScopeRecord:
        raise NotImplementedError

    def add(self, span: SpanRecord, resource: ResourceRecord, scope: ScopeRecord, where: str = "") -> bool:
        """Takes one span; False where it was refused (bad ids, no start time, time out of range) or repeats exactly."""
        raise NotImplementedError

    def reject(self, reason: str, where: str = "", count: int = 1) -> None:
        """Counts spans that a decoder had to refuse before it could make a record of them."""
        raise NotImplementedError

    def unreadable(self, reason: str, where: str = "") -> None:
        """Counts a line or document that could not be read at all."""
        raise NotImplementedError

    def other_signal(self, count: int = 1) -> None:
        """Counts documents that hold logs, metrics or profiles."""
        raise NotImplementedError

    def finish(self) -> Batch:
        raise NotImplementedError
