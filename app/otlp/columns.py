"""The Arrow tables between decoding and the store: one `Batch` is what any decoder or file format yields.

Decoders run in worker processes; a batch crosses to the writer as Arrow IPC bytes (`to_ipc`, `from_ipc`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

_TEXT = pa.string()

SPANS = pa.schema(
    [
        ("trace_id", pa.uuid()),
        ("span_id", pa.uint64()),
        ("parent_span_id", pa.uint64()),
        ("shape", pa.uint32()),
        ("start_ns", pa.int64()),
        ("duration_ns", pa.int64()),
        ("ready_ns", pa.int64()),
        ("message_id", _TEXT),
        ("target_hash", pa.uint64()),
        ("span_hash", pa.uint64()),
        ("status_message", _TEXT),
        ("trace_state", _TEXT),
        ("notes", _TEXT),
        ("attributes", _TEXT),
    ]
)
"""What differs from span to span. `shape` is a row of the batch's shapes; `attributes` is lossless JSON text (see
`app.otlp.attributes`); `notes` says what was mended, else empty."""

SHAPES = pa.schema(
    [
        ("shape_hash", pa.uint64()),
        ("kind", pa.uint8()),
        ("parent_origin", _TEXT),
        ("service", _TEXT),
        ("instance", _TEXT),
        ("host", _TEXT),
        ("service_version", _TEXT),
        ("scope_name", _TEXT),
        ("name", _TEXT),
        ("endpoint", _TEXT),
        ("operation_class", _TEXT),
        ("operation", _TEXT),
        ("peer", _TEXT),
        ("status", pa.uint8()),
        ("outcome", _TEXT),
        ("error_type", _TEXT),
        ("http_status", pa.uint16()),
        ("attempt", pa.uint32()),
        ("request_class", _TEXT),
        ("resource_id", pa.uint64()),
        ("scope_id", pa.uint64()),
        ("flags", pa.uint32()),
        ("dropped_attributes_count", pa.uint32()),
        ("dropped_events_count", pa.uint32()),
        ("dropped_links_count", pa.uint32()),
    ]
)
"""What many spans have in common, once: a service has tens of shapes, whatever it sends (the recorded example: 49 for
55,000 spans). As columns of each span these 24 cost two thirds of what storing a span costs."""

EVENTS = pa.schema(
    [
        ("trace_id", pa.uuid()),
        ("span_id", pa.uint64()),
        ("span_hash", pa.uint64()),
        ("position", pa.uint32()),
        ("time_ns", pa.int64()),
        ("name", _TEXT),
        ("attributes", _TEXT),
        ("dropped_attributes_count", pa.uint32()),
    ]
)

LINKS = pa.schema(
    [
        ("trace_id", pa.uuid()),
        ("span_id", pa.uint64()),
        ("span_hash", pa.uint64()),
        ("position", pa.uint32()),
        ("linked_trace_id", pa.uuid()),
        ("linked_span_id", pa.uint64()),
        ("trace_state", _TEXT),
        ("flags", pa.uint32()),
        ("attributes", _TEXT),
        ("dropped_attributes_count", pa.uint32()),
    ]
)

RESOURCES = pa.schema(
    [
        ("resource_id", pa.uint64()),
        ("service", _TEXT),
        ("attributes", _TEXT),
        ("dropped_attributes_count", pa.uint32()),
        ("schema_url", _TEXT),
    ]
)

SCOPES = pa.schema(
    [
        ("scope_id", pa.uint64()),
        ("name", _TEXT),
        ("version", _TEXT),
        ("attributes", _TEXT),
        ("dropped_attributes_count", pa.uint32()),
        ("schema_url", _TEXT),
    ]
)
TABLES = {"spans": SPANS, "shapes": SHAPES, "events": EVENTS, "links": LINKS, "resources": RESOURCES, "scopes": SCOPES}


def with_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """The table with one of its columns replaced."""
    return table.set_column(table.schema.get_field_index(name), name, column)


@dataclass(frozen=True)
class Rejection:
    """Spans or lines that were refused for one reason, with where the first one stood."""

    reason: str
    count: int
    first: str
    """Where the first one was: `line 7`, `byte 312`, `span 4 (checkout GET /cart)`; empty where nothing says it."""


@dataclass(frozen=True)
class Tally:
    """What a decoder found: found = accepted + joined + duplicates + rejected spans."""

    found: int = 0
    accepted: int = 0
    joined: int = 0
    duplicates: int = 0
    rejected: tuple[Rejection, ...] = ()
    unreadable: tuple[Rejection, ...] = ()
    other_signals: int = 0
    re_identified: int = 0
    warnings: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    """Services whose spans were in the batch, at most 32."""

    @property
    def rejected_count(self) -> int:
        return sum(rejection.count for rejection in self.rejected)

    def plus(self, other: Tally) -> Tally:
        """Both tallies added up; equal reasons are merged and keep the first place."""
        return Tally(
            self.found + other.found,
            self.accepted + other.accepted,
            self.joined + other.joined,
            self.duplicates + other.duplicates,
            _merged(self.rejected + other.rejected),
            _merged(self.unreadable + other.unreadable),
            self.other_signals + other.other_signals,
            self.re_identified + other.re_identified,
            tuple(dict.fromkeys(self.warnings + other.warnings))[:32],
            tuple(dict.fromkeys(self.senders + other.senders))[:32],
        )

    def to_json(self) -> dict[str, object]:
        """Plain values for an API answer or a database row; `from_json` turns them back."""
        return {
            "found": self.found,
            "accepted": self.accepted,
            "joined": self.joined,
            "duplicates": self.duplicates,
            "rejected": [[r.reason, r.count, r.first] for r in self.rejected],
            "unreadable": [[r.reason, r.count, r.first] for r in self.unreadable],
            "other_signals": self.other_signals,
            "re_identified": self.re_identified,
            "warnings": list(self.warnings),
            "senders": list(self.senders),
        }

    @staticmethod
    def from_json(text: str) -> Tally:
        """The tally that `json.dumps(tally.to_json())` wrote."""
        return Tally.of_json(json.loads(text))

    @staticmethod
    def of_json(values: Mapping[str, Any]) -> Tally:
        """The tally of which `to_json` gave the values."""
        return Tally(
            **{
                **values,
                "rejected": tuple(Rejection(*row) for row in values["rejected"]),
                "unreadable": tuple(Rejection(*row) for row in values["unreadable"]),
                "warnings": tuple(values["warnings"]),
                "senders": tuple(values["senders"]),
            }
        )


def _merged(rejections: tuple[Rejection, ...]) -> tuple[Rejection, ...]:
    by_reason: dict[str, Rejection] = {}
    for rejection in rejections:
        reason = rejection.reason
        # Reasons may quote the input: the sum over a large file stays as small as one batch's tally.
        if reason not in by_reason and len(by_reason) >= 64:
            reason = "other reasons"
        known = by_reason.get(reason)
        by_reason[reason] = Rejection(
            reason, rejection.count + (known.count if known else 0), known.first if known else rejection.first
        )
    return tuple(by_reason.values())


@dataclass(frozen=True, eq=False)
class Batch:
    """Decoded spans as six Arrow tables with the schemas above, and what was found on the way."""

    spans: pa.Table
    shapes: pa.Table
    events: pa.Table
    links: pa.Table
    resources: pa.Table
    scopes: pa.Table
    tally: Tally = field(default_factory=Tally)
    share_bytes: int | None = None
    """Its part of the memory that it keeps together with others."""

    @property
    def span_count(self) -> int:
        return int(self.spans.num_rows)

    @property
    def nbytes(self) -> int:
        if self.share_bytes is not None:
            return self.share_bytes
        # `nbytes` of each table looks at every column: 0.12 ms, against 0.004.
        return sum(int(getattr(self, name).get_total_buffer_size()) for name in TABLES)

    def to_ipc(self) -> list[pa.Buffer]:
        """An Arrow IPC stream for each of `TABLES`, empty where the table is, then the tally as JSON."""
        parts: list[pa.Buffer] = []
        for name, schema in TABLES.items():
            table: pa.Table = getattr(self, name)
            sink = pa.BufferOutputStream()
            if table.num_rows:
                with pa.ipc.new_stream(sink, schema) as writer:
                    writer.write_table(table)
            parts.append(sink.getvalue())
        parts.append(pa.py_buffer(json.dumps(self.tally.to_json()).encode()))
        return parts

    @staticmethod
    def from_ipc(parts: Sequence[pa.Buffer]) -> Batch:
        """The batch that `to_ipc` wrote; its columns lie in the buffers that are given."""
        tables = {
            name: pa.ipc.open_stream(part).read_all() if part.size else schema.empty_table()
            for part, (name, schema) in zip(parts, TABLES.items(), strict=False)
        }
        return Batch(**tables, tally=Tally.from_json(parts[len(TABLES)].to_pybytes().decode()))


@dataclass(frozen=True, eq=False)
class BatchGroup:
    """The batches of several bodies, decoded together: their rows lie one after the other in the tables of `batch`."""

    batch: Batch
    spans: tuple[int, ...]
    """How many of the rows are each body's; the same for events and links below."""
    events: tuple[int, ...]
    links: tuple[int, ...]
    tallies: tuple[Tally, ...]
    errors: tuple[str | None, ...]
    """For each body what is wrong with it; those with an error have no batch."""

    @staticmethod
    def of(batches: Sequence[Batch], errors: Sequence[str | None]) -> BatchGroup:
        """Batches that were decoded one by one, and the errors of all bodies."""
        tables = {
            name: pa.concat_tables([schema.empty_table(), *(getattr(batch, name) for batch in batches)])
            for name, schema in TABLES.items()
        }
        first = np.repeat(
            np.cumsum([0, *(batch.shapes.num_rows for batch in batches)])[:-1],
            [batch.spans.num_rows for batch in batches],
        )
        shapes = tables["spans"]["shape"].to_numpy() + first
        return BatchGroup(
            Batch(**tables | {"spans": with_column(tables["spans"], "shape", pa.array(shapes, pa.uint32()))}),
            tuple(batch.spans.num_rows for batch in batches),
            tuple(batch.events.num_rows for batch in batches),
            tuple(batch.links.num_rows for batch in batches),
            tuple(batch.tally for batch in batches),
            tuple(errors),
        )

    def to_ipc(self) -> list[pa.Buffer]:
        """The parts of `Batch.to_ipc`, then the rest as JSON."""
        tallies = [tally.to_json() for tally in self.tallies]
        rest = json.dumps([self.spans, self.events, self.links, tallies, self.errors]).encode()
        return [*self.batch.to_ipc(), pa.py_buffer(rest)]

    @staticmethod
    def from_ipc(parts: Sequence[pa.Buffer]) -> BatchGroup:
        """The group that `to_ipc` wrote."""
        spans, events, links, tallies, errors = json.loads(parts[-1].to_pybytes())
        return BatchGroup(
            Batch.from_ipc(parts[:-1]),
            tuple(spans),
            tuple(events),
            tuple(links),
            tuple(Tally.of_json(tally) for tally in tallies),
            tuple(errors),
        )

    def batches(self) -> list[Batch]:
        """One batch a body, without copying rows; each refers to the shapes, resources and scopes of all."""
        found = []
        bytes_per_span = self.batch.nbytes / max(self.batch.span_count, 1)
        span = event = link = 0
        for spans, events, links, tally in zip(self.spans, self.events, self.links, self.tallies, strict=True):
            found.append(
                Batch(
                    self.batch.spans.slice(span, spans),
                    self.batch.shapes,
                    self.batch.events.slice(event, events),
                    self.batch.links.slice(link, links),
                    self.batch.resources,
                    self.batch.scopes,
                    tally,
                    round(bytes_per_span * spans),
                )
            )
            span, event, link = span + spans, event + events, link + links
        return found
