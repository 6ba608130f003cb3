"""Spans of files that show whole traces: ids made unique, halves of shared spans told apart, parents located."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from analysis.semantics import ParentOrigin
from analysis.span import Kind
from app.formats.base import BATCH_SPANS
from app.otlp.attributes import AttributeValue, attributes_json
from app.otlp.columns import Batch
from app.otlp.records import BatchBuilder, ResourceRecord, ScopeRecord, SpanRecord

Identity = tuple[bytes, int]

_CALLERS = (Kind.CLIENT, Kind.PRODUCER)
_CALLEES = (Kind.SERVER, Kind.CONSUMER)


@dataclass(slots=True)
class FileSpan:
    """One span of a file before its identity is settled."""

    record: SpanRecord
    service: str
    resource: dict[str, AttributeValue]
    scope_name: str = ""
    scope_version: str = ""
    where: str = ""
    shared: bool = False
    """Zipkin says of a server's half that it shares its id with the client's."""


def batches_of(spans: list[FileSpan], builder: BatchBuilder) -> Iterator[Batch]:
    """The spans as batches; `builder` brings what was counted before, its batch comes first."""
    settle(spans, builder)
    for first in range(0, len(spans), BATCH_SPANS) or (0,):
        builder = builder if first == 0 else BatchBuilder()
        # By identity: the spans of a process share one map, and its text is long.
        resources: dict[int, ResourceRecord] = {}
        scopes: dict[tuple[str, str], ScopeRecord] = {}
        for span in spans[first : first + BATCH_SPANS]:
            resource = resources.get(id(span.resource))
            if resource is None:
                resource = resources[id(span.resource)] = builder.resource(span.resource)
            name = span.scope_name, span.scope_version
            scope = scopes.get(name)
            if scope is None:
                scope = scopes[name] = builder.scope(*name)
            builder.add(span.record, resource, scope, span.where)
        yield builder.finish()


def settle(spans: list[FileSpan], builder: BatchBuilder) -> None:
    """Gives every span its final id, parent and parent origin; the order of spans in the file changes nothing.

    Of different spans with one id in a trace the caller's half keeps it, else the earliest; the others get a new one
    by a fixed hash of id and content. A server's half becomes a child of its client's. Exact repeats stay repeats.
    """
    by_identity: dict[Identity, list[FileSpan]] = defaultdict(list)
    for span in spans:
        # Without an id the builder refuses it, as often as it comes.
        if span.record.span_id:
            by_identity[span.record.trace_id, span.record.span_id].append(span)
    shared: dict[Identity, _Halves] = {}
    for identity, group in by_identity.items():
        if len(group) > 1 and len(contents := _contents(group)) > 1:
            shared[identity] = _tell_apart(identity, contents)
            builder.re_identified(len(contents) - 1)
    if shared:
        _move_children(spans, shared)
        count = sum(halves.count - 1 for halves in shared.values())
        noun = "span" if count == 1 else "spans"
        builder.warn(f"{count:,} {noun} had the id of another span of the same trace: given a new one")
    services = {(span.record.trace_id, span.record.span_id): span.service for span in spans}
    for span in spans:
        record = span.record
        parent_service = services.get((record.trace_id, record.parent_span_id))
        if record.parent_span_id == 0:
            record.parent_origin = ParentOrigin.ROOT
        elif parent_service is not None:
            record.parent_origin = ParentOrigin.LOCAL if parent_service == span.service else ParentOrigin.REMOTE


class _Halves:
    """Which half of a shared id a child belongs to."""

    def __init__(self, keeper: FileSpan, others: list[FileSpan]) -> None:
        self.count = 1 + len(others)
        self.members = {id(keeper), *map(id, others)}
        self._by_service: dict[str, tuple[list[int], list[int]]] = {}
        for half in sorted(others, key=lambda one: (one.record.start_ns, one.record.span_id)):
            starts, span_ids = self._by_service.setdefault(half.service, ([], []))
            starts.append(half.record.start_ns)
            span_ids.append(half.record.span_id)

    def parent_of(self, child: FileSpan) -> int | None:
        """The half of the child's own service that began last before it; None: the one that kept the id."""
        starts, span_ids = self._by_service.get(child.service, ([], []))
        return span_ids[max(bisect_right(starts, child.record.start_ns) - 1, 0)] if starts else None


def _contents(group: list[FileSpan]) -> dict[bytes, list[FileSpan]]:
    contents: dict[bytes, list[FileSpan]] = defaultdict(list)
    for span in group:
        contents[_fingerprint(span)].append(span)
    return contents


def _fingerprint(span: FileSpan) -> bytes:
    record = span.record
    fields = (
        record.name,
        record.kind,
        record.start_ns,
        record.end_ns,
        record.parent_span_id,
        record.trace_state,
        record.flags,
        record.status_code,
        record.status_message,
        attributes_json(record.attributes),
        [(event.time_ns, event.name, attributes_json(event.attributes)) for event in record.events],
        [(link.trace_id, link.span_id, attributes_json(link.attributes)) for link in record.links],
        sorted(record.notes),
        attributes_json(span.resource),
        span.scope_name,
        span.scope_version,
        span.shared,
    )
    return blake2b(repr(fields).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _tell_apart(identity: Identity, contents: dict[bytes, list[FileSpan]]) -> _Halves:
    ordered = sorted(contents.items(), key=lambda item: (_rank(item[1][0]), item[1][0].record.start_ns, item[0]))
    keeper = ordered[0][1][0]
    trace_id, span_id = identity
    for fingerprint, repeats in ordered[1:]:
        mark = trace_id + span_id.to_bytes(8, "big") + fingerprint
        new_id = int.from_bytes(blake2b(mark, digest_size=8).digest(), "big") or 1
        for span in repeats:
            record = span.record
            record.span_id = new_id
            record.notes.append(f"its span id {span_id:016x} is another span's of the trace: a new one was given")
            if _is_half_of(span, keeper, span_id):
                record.parent_span_id = span_id
    return _Halves(keeper, [repeats[0] for _, repeats in ordered[1:]])


def _is_half_of(span: FileSpan, keeper: FileSpan, span_id: int) -> bool:
    """Whether the span is the callee's side of the keeper's call, not another span that took its id."""
    if span.record.kind not in _CALLEES:
        return False
    if span.shared and not keeper.shared:
        return True
    parents = (0, span_id, keeper.record.parent_span_id)
    return keeper.record.kind in _CALLERS and span.record.parent_span_id in parents


def _rank(span: FileSpan) -> int:
    if span.record.kind in _CALLERS:
        return 0
    return 2 if span.shared else 1


def _move_children(spans: list[FileSpan], shared: dict[Identity, _Halves]) -> None:
    new_ids = {(span.record.trace_id, span.record.span_id) for span in spans}
    for span in spans:
        record = span.record
        halves = shared.get((record.trace_id, record.parent_span_id))
        if halves is None or id(span) in halves.members:
            continue
        parent = halves.parent_of(span)
        if parent is not None and parent != record.span_id and (record.trace_id, parent) in new_ids:
            record.parent_span_id = parent
