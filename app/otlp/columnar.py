"""OTLP protobuf into columns without a Python object a span: the fast way for spans that look as usual.

ptars (Rust) turns the bytes into Arrow columns; attributes stay bytes, and each distinct one is decoded once for all
spans. Spans with events, links or anything that has to be mended or refused become records, as in
`app.otlp.protobuf_records`, and take their places between the others. Both ways give the same rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import ptars
import pyarrow as pa
from google.protobuf.message import DecodeError as ProtobufError

from analysis.semantics import ParentOrigin
from app.otlp.column_facts import Kinds, Owners, fact_columns
from app.otlp.columns import SPANS, Batch, BatchGroup
from app.otlp.counts import Counts
from app.otlp.descriptors import Event, Link, RawRequest
from app.otlp.hashing import Mask, Positions, Words, first_of_each, mixed, segments, span_hashes, sums_by_group
from app.otlp.key_values import Members, members_of
from app.otlp.protobuf_records import resource_record, scope_record, span_record, warn_of
from app.otlp.records import BatchBuilder, ResourceRecord, ScopeRecord

_log = logging.getLogger(__name__)

_HANDLER = ptars.HandlerPool([RawRequest.DESCRIPTOR.file]).get_for_message(RawRequest.DESCRIPTOR)

_ORIGINS = (ParentOrigin.ROOT, ParentOrigin.UNKNOWN, ParentOrigin.LOCAL, ParentOrigin.REMOTE)

_NO_RESOURCE: dict[str, Any] = {"attributes": [], "dropped_attributes_count": 0}
_NO_SCOPE: dict[str, Any] = {"name": b"", "version": b"", **_NO_RESOURCE}
_NO_STATUS: dict[str, Any] = {"message": b"", "code": 0}
"""Messages that a sender left out; ptars gives null for them."""


def decode_together(bodies: Sequence[bytes]) -> BatchGroup | None:
    """The spans of several ExportTraceServiceRequests; None where one of the bodies has to go the other way."""
    try:
        for body in bodies:
            # Costs a tenth of the rest. ptars takes a group without an end, and what follows it is lost.
            RawRequest.FromString(body)
        message = _HANDLER.list_to_record_batch(list(bodies))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - a panic in Rust is no Exception; the other decoder may do better
        return None
    resource_spans: pa.ListArray = message.column(0)
    libraries = resource_spans.values.field("instrumentation_library_spans")
    if len(libraries.values):
        return None
    try:
        return _Group(resource_spans).decoded()
    except ProtobufError:
        return None
    except Exception:  # noqa: BLE001 - a body must never be lost to a fault of the fast way
        _log.exception("columnar decoding failed, decoding span by span")
        return None


@dataclass(frozen=True, eq=False)
class _Text:
    """A text column, and which spans have to go the other way because theirs is not UTF-8."""

    array: pa.Array
    broken: list[int]


class _Group:
    """The spans of some bodies on their way to columns."""

    def __init__(self, resource_spans: pa.ListArray) -> None:
        self._resource_spans = resource_spans.values
        self._scope_spans = self._resource_spans.field("scope_spans").values
        self._spans = self._scope_spans.field("spans").values
        self._count = len(self._spans)
        self._builder = BatchBuilder()
        self._counts = [Counts() for _ in range(len(resource_spans))]
        self._resources: list[ResourceRecord] = []
        self._scopes: list[ScopeRecord] = []
        self._sizes = np.zeros(len(resource_spans), np.int64)
        self._read_references(_bounds(resource_spans))
        span_counts = _lengths(self._scope_spans.field("spans"))
        self._owners: Positions = np.repeat(np.arange(len(self._scope_spans)), span_counts)

    def _read_references(self, bodies: list[int]) -> None:
        """Resources and scopes of all bodies in their order, and how many spans each body has."""
        resources = self._resource_spans.field("resource").to_pylist()
        urls = self._resource_spans.field("schema_url").to_pylist()
        scopes = self._scope_spans.field("scope").to_pylist()
        scope_urls = self._scope_spans.field("schema_url").to_pylist()
        groups, spans = _bounds(self._resource_spans.field("scope_spans")), _bounds(self._scope_spans.field("spans"))
        for body, counts in enumerate(self._counts):
            self._builder.counts = counts
            first, last = bodies[body], bodies[body + 1]
            self._sizes[body] = spans[groups[last]] - spans[groups[first]]
            for place in range(first, last):
                notes: dict[str, None] = {}
                resource = resource_record(self._builder, _fields(resources[place] or _NO_RESOURCE), urls[place], notes)
                for inner in range(groups[place], groups[place + 1]):
                    self._resources.append(resource)
                    scope = _fields(scopes[inner] or _NO_SCOPE)
                    self._scopes.append(scope_record(self._builder, scope, scope_urls[inner], notes))
                warn_of(self._builder, resource, notes)

    def decoded(self) -> BatchGroup:
        """All spans as one batch, and what came from which body."""
        columns, hashes, odd = self._usual()
        spans = pa.table(columns, schema=SPANS)
        bodies = np.repeat(np.arange(len(self._sizes)), self._sizes)
        others = np.flatnonzero(odd)
        taken = self._add_records(others, bodies)
        more, more_hashes = self._builder.span_columns() if taken else ({}, np.zeros(0, np.uint64))
        places = np.flatnonzero(~odd)
        if len(others):
            # Records take the places of their spans again.
            places = np.concatenate([places, np.array(taken, np.int64)])
            order = np.argsort(places, kind="stable")
            rows = np.concatenate([np.flatnonzero(~odd), self._count + np.arange(len(taken))])[order]
            spans = pa.concat_tables([spans, pa.table(more, schema=SPANS)] if taken else [spans]).combine_chunks()
            spans, places = spans.take(pa.array(rows)), places[order]
            hashes = np.concatenate([hashes, more_hashes])[rows]
        bodies = bodies[places]
        kept = _first_in_body(hashes, bodies)
        if not kept.all():
            spans, bodies, places = spans.filter(pa.array(kept)), bodies[kept], places[kept]
        kept_records = np.isin(np.array(taken, np.int64), places)
        record_bodies = np.repeat(np.arange(len(self._sizes)), self._sizes)[np.array(taken, np.int64)]
        batch = Batch(spans, *self._builder.other_tables(more_hashes, kept_records))
        accepted = self._per_body(bodies)
        self._name_senders(places)
        tallies = tuple(counts.tally(count) for counts, count in zip(self._counts, accepted, strict=True))
        # A group of one body is that body's batch.
        batch = replace(batch, tally=tallies[0]) if len(tallies) == 1 else batch
        events, links = (
            self._per_body(record_bodies[rows][kept_records[rows]])
            for rows in (np.array(rows, np.int64) for rows in self._builder.detail_rows())
        )
        return BatchGroup(batch, accepted, events, links, tallies, (None,) * len(tallies))

    def _per_body(self, bodies: Positions) -> tuple[int, ...]:
        return tuple(np.bincount(bodies, minlength=len(self._counts)).tolist())

    def _name_senders(self, places: Positions) -> None:
        """Notes the services of each body's spans in the order in which they come."""
        owners, firsts = np.unique(self._owners[places], return_index=True)
        ends = np.cumsum(self._sizes)
        for counts in self._counts:
            counts.senders.clear()
        for first, owner in sorted(zip(firsts.tolist(), owners.tolist(), strict=True)):
            body = int(np.searchsorted(ends, places[first], "right"))
            self._counts[body].sender(self._resources[owner].service)

    def _add_records(self, others: Positions, bodies: Positions) -> list[int]:
        """Adds spans as records; the places of those that were taken."""
        taken = []
        ends = np.cumsum(self._sizes) - self._sizes
        for place, row in zip(others.tolist(), self._spans.take(pa.array(others)).to_pylist(), strict=True):
            body, owner = int(bodies[place]), int(self._owners[place])
            resource, counts = self._resources[owner], self._counts[body]
            self._builder.counts = counts
            counts.found = place - int(ends[body])
            row["events"] = [Event.FromString(raw) for raw in row["events"]]
            row["links"] = [Link.FromString(raw) for raw in row["links"]]
            row["status"] = _fields(row["status"] or _NO_STATUS)
            if self._builder.add(span_record(_fields(row)), resource, self._scopes[owner]):
                taken.append(place)
        for counts, size in zip(self._counts, self._sizes.tolist(), strict=True):
            counts.found = size
        return taken

    def _usual(self) -> tuple[dict[str, pa.Array], Words, Mask]:
        """Columns and hashes of all spans, and which of them have to go the other way: their values mean nothing."""
        spans, count = self._spans, self._count
        trace_ids, odd = _ids(spans.field("trace_id"), 16)
        span_ids, missing = _ids(spans.field("span_id"), 8)
        odd |= missing
        parents, _ = _ids(spans.field("parent_span_id"), 8)
        lengths = segments(spans.field("parent_span_id"))[2]
        odd |= (lengths != 8) & (lengths != 0)
        starts, ends = (_numbers(spans.field(f"{edge}_time_unix_nano")) for edge in ("start", "end"))
        odd |= (starts == 0) | (ends < starts) | (ends >= np.uint64(2**63))
        kinds, codes = _numbers(spans.field("kind")), _numbers(spans.field("status").field("code"))
        odd |= (kinds < 0) | (kinds > 255) | (codes < 0) | (codes > 255)
        for details in ("events", "links"):
            odd |= _lengths(spans.field(details)) > 0
        name, state = _text(spans.field("name")), _text(spans.field("trace_state"))
        message = _text(spans.field("status").field("message"))
        for text in (name, state, message):
            odd[text.broken] = True
        odd |= segments(name.array)[2] == 0
        attributes = _Attributes(spans.field("attributes"))
        odd |= attributes.odd
        flags = _numbers(spans.field("flags"))
        attribute_counts, event_counts, link_counts = (
            _numbers(spans.field(f"dropped_{what}_count")) for what in ("attributes", "events", "links")
        )
        facts, shapes = fact_columns(
            Kinds(
                kinds,
                codes,
                name.array,
                message.array,
                flags,
                (attribute_counts, event_counts, link_counts),
                self._owners,
                _origins(flags, parents),
                odd,
            ),
            Owners(self._resources, self._scopes, _ORIGINS),
            attributes,
            self._builder.shapes,
        )
        columns: dict[str, pa.Array] = {
            "trace_id": pa.ExtensionArray.from_storage(pa.uuid(), _fixed(trace_ids)),
            "span_id": pa.array(span_ids),
            "parent_span_id": pa.array(parents),
            "start_ns": pa.array(starts.astype(np.int64)),
            "duration_ns": pa.array((ends - starts).astype(np.int64)),
            "status_message": message.array,
            "trace_state": state.array,
            "notes": pa.repeat("", count),
            "attributes": attributes.texts(),
            **facts,
        }
        hashes = span_hashes(columns, shapes, attributes.hashes, np.zeros(count, np.uint64))
        columns["span_hash"] = pa.array(hashes)
        return {name: columns[name] for name in SPANS.names}, hashes, odd


class _Attributes:
    """The attributes of all spans: text, hash, and their members in order."""

    def __init__(self, lists: pa.ListArray) -> None:
        self.bounds = np.array(_bounds(lists), np.int64)
        self.counts = self.bounds[1:] - self.bounds[:-1]
        encoded = lists.values.dictionary_encode()
        self.raws: pa.Array = encoded.dictionary
        self.codes: npt.NDArray[np.int32] = encoded.indices.to_numpy(zero_copy_only=False)
        self.members: Members = members_of(self.raws)
        owners = np.repeat(np.arange(len(self.counts)), self.counts)
        self._rows, places = _in_order(self.members, self.members.rows[self.codes], owners, self.bounds)
        self.odd = np.zeros(len(self.counts), np.bool_)
        self.odd[owners[1:][places[1:] == places[:-1]]] = True
        if self.members.odd.any():
            self.odd[owners[self.members.odd[self._rows]]] = True
        self.hashes = sums_by_group(self.members.hashes[self._rows], self.counts)

    def texts(self) -> pa.Array:
        """One JSON text a span."""
        count, begins = len(self.counts), self.bounds[:-1] + np.arange(len(self.counts))
        last = len(self.members.texts)
        rows = np.empty(len(self._rows) + count, np.int64)
        inner = np.ones(len(rows), np.bool_)
        inner[begins] = False
        rows[inner] = self._rows
        rows[begins] = np.where(self.counts > 0, last, last + 1)
        pieces = pa.concat_arrays([self.members.texts, pa.array(["{", "{}"])]).take(pa.array(rows))
        data, starts, _ = segments(pieces)
        offsets = np.empty(count + 1, np.int32)
        offsets[:-1], offsets[-1] = starts[begins], len(data)
        closed = data.copy()
        closed[offsets[1:] - 1] = ord("}")
        return pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(closed)])


def _in_order(
    members: Members, rows: npt.NDArray[np.int32], owners: Positions, bounds: Positions
) -> tuple[npt.NDArray[np.int32], Positions]:
    """Members ordered within each span, and where each stands: equal places are equal keys of one span."""
    ranks = members.ranks[rows]
    most = int(ranks.max(initial=0)) + 1
    places = owners * most + ranks
    if _ascending(places):
        return rows, places
    # A sender's spans of one kind have the same keys in the same order: each sequence is sorted once.
    begins = bounds[:-1]
    inside = np.arange(len(rows)) - begins[owners]
    sequences = sums_by_group(mixed((inside * most + ranks).astype(np.uint64)), np.diff(bounds))
    distinct, firsts, groups = np.unique(sequences, return_index=True, return_inverse=True)
    if len(distinct) <= len(begins) // 4 + 1:
        sorted_places = [np.argsort(ranks[begins[first] : bounds[first + 1]], kind="stable") for first in firsts]
        offsets = np.cumsum([0, *(len(one) for one in sorted_places)])
        moved = begins[owners] + np.concatenate(sorted_places)[offsets[groups[owners]] + inside]
        if _ascending(places[moved]):
            return rows[moved], places[moved]
    order = np.argsort(places, kind="stable")
    return rows[order], places[order]


def _ascending(places: Positions) -> bool:
    return bool((places[1:] > places[:-1]).all())


def _fields(row: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**row)


def _bounds(lists: pa.ListArray) -> list[int]:
    bounds: list[int] = lists.offsets.to_pylist()
    return bounds


def _lengths(lists: pa.ListArray) -> Positions:
    bounds: Positions = np.array(_bounds(lists), np.int64)
    return bounds[1:] - bounds[:-1]


def _numbers(array: pa.Array) -> npt.NDArray[Any]:
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _fixed(ids: npt.NDArray[np.uint8]) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(np.ascontiguousarray(ids))])


def _ids(array: pa.Array, width: int) -> tuple[npt.NDArray[Any], Mask]:
    """Ids as rows of 16 bytes or as 64-bit numbers, 0 where they have another length, and which are 0."""
    data, starts, lengths = segments(array)
    right = lengths == width
    if right.all():
        first = int(starts[0]) if len(starts) else 0
        ids = data[first : first + width * len(array)].reshape(-1, width)
    else:
        ids = np.zeros((len(array), width), np.uint8)
        ids[right] = data[starts[right][:, None] + np.arange(width)]
    words = np.ascontiguousarray(ids).view(">u8")
    missing = (words == 0).all(axis=1)
    return (words[:, 0].astype(np.uint64), missing) if width == 8 else (ids, missing)


def _text(array: pa.Array) -> _Text:
    try:
        return _Text(array.cast(pa.string()), [])
    except pa.ArrowInvalid:
        texts: list[str] = []
        broken: list[int] = []
        for row, raw in enumerate(array.to_pylist()):
            try:
                texts.append(raw.decode())
            except UnicodeDecodeError:
                texts.append("")
                broken.append(row)
        return _Text(pa.array(texts, pa.string()), broken)


def _origins(flags: npt.NDArray[np.uint32], parents: Words) -> npt.NDArray[np.int64]:
    """Places in `_ORIGINS`, by the rule of `analysis.semantics.parent_origin`."""
    known = np.where(flags & 0x200, 3, 2)
    return np.where(parents == 0, 0, np.where(flags & 0x100, known, 1)).astype(np.int64)


def _first_in_body(hashes: Words, bodies: Positions) -> Mask:
    kept = first_of_each(hashes)
    if kept.all() or len(bodies) == 0 or bodies[0] == bodies[-1]:
        return kept
    edges = np.flatnonzero(np.diff(bodies)) + 1
    return np.concatenate([first_of_each(part) for part in np.split(hashes, edges)])
