"""Zipkin's reports: several that tell of one span joined, and one as a record."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from analysis.span import Kind, Status
from app.formats.jaeger_spans import KINDS
from app.formats.text_ids import TextIds
from app.formats.values import BadValue, microseconds, text
from app.formats.whole_traces import FileSpan
from app.otlp.attributes import AttributeValue
from app.otlp.records import UNKNOWN_SERVICE, BatchBuilder, EventRecord, SpanRecord

# OpenTelemetry's exporter for Zipkin writes resource attributes among the tags.
_RESOURCE_PREFIXES = (
    "service.",
    "telemetry.",
    "deployment.",
    "host.",
    "process.",
    "k8s.",
    "container.",
    "cloud.",
    "os.",
)
_TIMES = frozenset(("cs", "sr", "ss", "cr", "ms", "mr"))


class Report:
    """One report of the file, with what decides whether it is a part of another one's span."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw = raw
        self.where = where
        self.parts: list[Mapping[str, Any]] = []
        """Reports that only add to this one."""
        self.kind = KINDS.get(text(raw.get("kind")).lower(), Kind.UNSPECIFIED)
        endpoint = _object(raw.get("localEndpoint"))
        self.service = text(endpoint.get("serviceName"))
        self.address = text(endpoint.get("ipv4")) or text(endpoint.get("ipv6"))
        self.has_start = bool(raw.get("timestamp"))
        self.is_complete = self.has_start and bool(raw.get("duration"))
        self.stands_alone = bool(self.kind) or self.is_complete


def merged(reports: list[Report], builder: BatchBuilder) -> list[Report]:
    """The reports that stand for spans; those that only add to one of them are made parts of it and counted."""
    groups: dict[tuple[str, str], list[Report]] = defaultdict(list)
    for report in reports:
        groups[text(report.raw.get("traceId")).lower(), text(report.raw.get("id")).lower()].append(report)
    kept: list[Report] = []
    for group in groups.values():
        kept.extend(group if len(group) == 1 else _joined(group, builder))
    return kept


def _joined(group: list[Report], builder: BatchBuilder) -> list[Report]:
    same: dict[str, list[Report]] = defaultdict(list)
    for report in group:
        same[json.dumps(report.raw, sort_keys=True)].append(report)
    # In an order that does not depend on the file's; a repeat of a report shares its parts.
    ordered = [repeats for _, repeats in sorted(same.items())]
    bases = [repeats for repeats in ordered if repeats[0].stands_alone]
    partial = [repeats for repeats in ordered if not repeats[0].stands_alone]
    if not bases:
        # The part that knows when the span began stands for it.
        partial.sort(key=lambda repeats: (not repeats[0].has_start, not repeats[0].raw.get("duration")))
        bases, partial = partial[:1], partial[1:]
    find_base = _Bases(bases)
    kept = list(bases)
    for repeats in partial:
        base = find_base(repeats[0])
        if base is None:
            kept.append(repeats)
            continue
        for report in base:
            report.parts.append(repeats[0].raw)
        builder.joined(len(repeats))
    return [report for repeats in kept for report in repeats]


class _Bases:
    """Finds the report that a partial one adds to, among those of its trace id and span id."""

    def __init__(self, bases: list[list[Report]]) -> None:
        self._by_service: dict[str, list[Report]] = {}
        self._by_address: dict[tuple[str, str], list[Report]] = {}
        # A part that names no service is the caller's more often: Netflix's reports of a client's internals.
        self._any = min(bases, key=lambda repeats: repeats[0].kind != Kind.CLIENT)
        for repeats in sorted(bases, key=lambda repeats: not repeats[0].is_complete):
            base = repeats[0]
            self._by_service.setdefault(base.service, repeats)
            self._by_address.setdefault((base.service, base.address), repeats)

    def __call__(self, part: Report) -> list[Report] | None:
        if not part.service:
            return self._any
        return (
            self._by_address.get((part.service, part.address))
            or self._by_service.get(part.service)
            or self._by_service.get("")
        )


def file_span(report: Report, ids: TextIds) -> FileSpan:
    """The span of a report and its parts. Raises BadValue where it cannot be one."""
    raw, parts = report.raw, [report.raw, *report.parts]
    trace_id, span_id = text(raw.get("traceId")), text(raw.get("id"))
    annotations = _annotations(parts)
    start_ns = _first(parts, "timestamp") or min((at for at, words in annotations if words in _TIMES), default=None)
    if start_ns is None:
        raise BadValue("no start time")
    lasted_ns = _first(parts, "duration")
    if lasted_ns is not None:
        end_ns = start_ns + lasted_ns
    else:
        end_ns = max((at for at, words in annotations if words in _TIMES), default=0)
    tags: dict[str, AttributeValue] = {}
    for part in reversed(parts):
        for key, value in _object(part.get("tags")).items():
            tags[key] = value if isinstance(value, str) else json.dumps(value)
    status_code, status_message = _status(tags)
    local = _first_object(parts, "localEndpoint")
    resource = {key: tags.pop(key) for key in list(tags) if key.startswith(_RESOURCE_PREFIXES)}
    service = text(local.get("serviceName")) or text(resource.get("service.name"))
    if service:
        resource["service.name"] = service
    address = text(local.get("ipv4")) or text(local.get("ipv6"))
    if address:
        resource.setdefault("host.ip", address)
    scope_name = _popped(tags, "otel.scope.name", "otel.library.name")
    scope_version = _popped(tags, "otel.scope.version", "otel.library.version")
    _add_peer(tags, _first_object(parts, "remoteEndpoint"))
    record = SpanRecord(
        ids.trace_id(trace_id),
        ids.span_id(span_id),
        next((words for part in parts if (words := text(part.get("name")))), ""),
        report.kind,
        start_ns,
        end_ns,
        next((ids.span_id(words) for part in parts if (words := text(part.get("parentId")))), 0),
        text(tags.pop("w3c.tracestate", "")),
        1 if raw.get("debug") is True else 0,
        status_code,
        status_message,
        {**tags, **ids.original(trace_id, span_id)},
        events=[EventRecord(at, words) for at, words in annotations if words not in _TIMES],
    )
    return FileSpan(
        record,
        service or UNKNOWN_SERVICE,
        resource,
        scope_name,
        scope_version,
        report.where,
        raw.get("shared") is True,
    )


def _annotations(parts: list[Mapping[str, Any]]) -> list[tuple[int, str]]:
    found: dict[tuple[int, str], None] = {}
    for part in parts:
        items = part.get("annotations")
        for item in items if isinstance(items, list) else ():
            if isinstance(item, Mapping):
                at_ns = microseconds(item.get("timestamp"), "an annotation's timestamp")
                if at_ns is not None:
                    found[at_ns, text(item.get("value"))] = None
    return sorted(found)


def _status(tags: dict[str, AttributeValue]) -> tuple[int, str]:
    """Of a Zipkin span any `error` tag makes an error, an empty one too."""
    code = text(tags.pop("otel.status_code", "")).upper()
    message = text(tags.pop("otel.status_description", ""))
    error = text(tags["error"]) if "error" in tags else None
    if code == "OK":
        return Status.OK, message
    if code != "ERROR" and (error is None or error.lower() == "false"):
        return Status.UNSET, message
    return Status.ERROR, message or (error if error and error.lower() != "true" else "")


def _add_peer(tags: dict[str, AttributeValue], remote: Mapping[str, Any]) -> None:
    port = text(remote.get("port"))
    for key, words in (
        ("peer.service", text(remote.get("serviceName"))),
        ("network.peer.address", text(remote.get("ipv4")) or text(remote.get("ipv6"))),
        ("network.peer.port", port if port != "0" else ""),
    ):
        if words:
            tags.setdefault(key, words)


def _first(parts: list[Mapping[str, Any]], name: str) -> int | None:
    """The first part's time that is there and not 0, in nanoseconds."""
    return next((value for part in parts if (value := microseconds(part.get(name) or None, name))), None)


def _first_object(parts: list[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next((found for part in parts if (found := _object(part.get(name)))), {})


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _popped(tags: dict[str, AttributeValue], *keys: str) -> str:
    found = [text(tags.pop(key, "")) for key in keys]
    return next((words for words in found if words), "")
