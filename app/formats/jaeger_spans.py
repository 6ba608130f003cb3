"""One span of a Jaeger file as a record: ids, times, tags, references and logs in all spellings."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from analysis.span import Kind, Status
from app.formats.text_ids import TextIds
from app.formats.values import BadValue, duration_ns, text, time_ns
from app.formats.whole_traces import FileSpan
from app.otlp.attributes import AttributeValue
from app.otlp.records import UNKNOWN_SERVICE, EventRecord, LinkRecord, SpanRecord

KINDS = {
    "internal": Kind.INTERNAL,
    "server": Kind.SERVER,
    "client": Kind.CLIENT,
    "producer": Kind.PRODUCER,
    "consumer": Kind.CONSUMER,
}

_SAMPLED = 1
# Ids in protobuf's JSON: 16 and 8 bytes in base64. No hexadecimal id ends in "=".
_BASE64_ID = re.compile(r"[A-Za-z0-9+/]{22}==|[A-Za-z0-9+/]{11}=")
_INTEGER = re.compile(r"[+-]?\d{1,20}")
_NO_PROCESS: Mapping[str, Any] = {}
_TYPED_VALUES = {
    "vStr": "string",
    "vBool": "bool",
    "vInt64": "int64",
    "vFloat64": "float64",
    "vBinary": "binary",
}


class RawSpan(NamedTuple):
    """A span object with what its trace says about it."""

    span: Any
    processes: Mapping[str, Any]
    trace_id: str
    where: str


class Processes:
    """Service and resource of each process; spans of one share the same map."""

    def __init__(self) -> None:
        # The objects are kept beside what came of them: an id is theirs for as long as they live.
        self._known: dict[int, tuple[Any, str, dict[str, AttributeValue]]] = {}

    def of(self, raw: RawSpan) -> tuple[str, dict[str, AttributeValue]]:
        """Of the span's own process, else of the one that it names."""
        process = raw.span.get("process")
        if not isinstance(process, Mapping):
            process = raw.processes.get(text(raw.span.get("processID")))
        if not isinstance(process, Mapping):
            process = _NO_PROCESS
        known = self._known.get(id(process))
        if known is None:
            known = self._known[id(process)] = (process, *_process(process))
        return known[1:]


class _Reference(NamedTuple):
    trace_id: str
    span_id: str
    follows: bool


def raw_ids(raw: RawSpan, trace_ids: set[str], span_ids: set[str]) -> None:
    """Adds all ids of the span and its references as texts."""
    if isinstance(raw.span, Mapping):
        trace_id, span_id = _ids(raw)
        trace_ids.add(trace_id)
        span_ids.add(span_id)
        for reference in _references(raw.span, trace_id):
            trace_ids.add(reference.trace_id)
            span_ids.add(reference.span_id)


def file_span(raw: RawSpan, ids: TextIds, processes: Processes) -> FileSpan:
    """The span as a record. Raises BadValue where it cannot be one."""
    span = raw.span
    if not isinstance(span, Mapping):
        raise BadValue("bad value: a span is not an object")
    trace_id, span_id = _ids(raw)
    start_ns = time_ns(span.get("startTime"), "startTime")
    lasted_ns = duration_ns(span.get("duration"), "duration")
    if start_ns is None:
        raise BadValue("no start time")
    tags = tag_values(span.get("tags"))
    service, resource = processes.of(raw)
    parent, others = _parent(_references(span, trace_id), trace_id)
    status_code, status_message = _status(tags)
    flags = span.get("flags")
    record = SpanRecord(
        ids.trace_id(trace_id),
        ids.span_id(span_id),
        text(span.get("operationName")),
        KINDS.get(text(tags.pop("span.kind", "")).lower(), Kind.UNSPECIFIED),
        start_ns,
        start_ns + lasted_ns if lasted_ns is not None else 0,
        ids.span_id(parent.span_id) if parent else 0,
        text(tags.pop("w3c.tracestate", "")),
        flags & _SAMPLED if isinstance(flags, int) else 0,
        status_code,
        status_message,
        events=[_event(log, start_ns) for log in _objects(span.get("logs"))],
        links=[
            LinkRecord(
                ids.trace_id(other.trace_id),
                ids.span_id(other.span_id),
                attributes={"opentracing.ref_type": "follows_from" if other.follows else "child_of"},
            )
            for other in others
        ],
        start_known=True,
    )
    scope_name = _popped(tags, "otel.scope.name", "otel.library.name")
    scope_version = _popped(tags, "otel.scope.version", "otel.library.version")
    record.attributes = {**tags, **ids.original(trace_id, span_id)}
    record.notes = [f"Jaeger's warning: {words}" for words in _list(span.get("warnings")) if isinstance(words, str)]
    return FileSpan(record, service, resource, scope_name, scope_version, raw.where)


def tag_values(tags: Any) -> dict[str, AttributeValue]:
    """Tags as attributes by their declared types; of one key's further values each is kept under `key#2`, `key#3` …"""
    values: dict[str, AttributeValue] = {}
    counts: dict[str, int] = {}
    for tag in _objects(tags):
        key, value = text(tag.get("key")), _tag_value(tag)
        if key not in values:
            values[key] = value
        elif values[key] != value:
            count = counts.get(key, 1) + 1
            while f"{key}#{count}" in values:
                count += 1
            counts[key] = count
            values[f"{key}#{count}"] = value
    return values


def _tag_value(tag: Mapping[str, Any]) -> AttributeValue:
    value: AttributeValue = tag.get("value")
    declared = text(tag.get("type")) or text(tag.get("vType"))
    if value is None:
        for name, kind in _TYPED_VALUES.items():
            if tag.get(name) is not None:
                value, declared = tag[name], kind
    if not isinstance(value, str):
        return float(value) if declared.lower() == "float64" and type(value) is int else value
    match declared.lower():
        case "bool" if value.lower() in ("true", "false"):
            return value.lower() == "true"
        case "int64" if _INTEGER.fullmatch(value):
            return int(value)
        case "float64":
            try:
                return float(value)
            except ValueError:
                return value
        case "binary":
            try:
                return b64decode(value, validate=True)
            except (Base64Error, ValueError):
                return value
    return value


def _ids(raw: RawSpan) -> tuple[str, str]:
    return _id(raw.span, "trace") or raw.trace_id, _id(raw.span, "span")


def _id(values: Mapping[str, Any], name: str) -> str:
    value = values.get(f"{name}ID")
    if value is not None:
        return text(value)
    words = text(values.get(f"{name}Id"))
    return b64decode(words).hex() if _BASE64_ID.fullmatch(words) else words


def _references(span: Mapping[str, Any], trace_id: str) -> Iterator[_Reference]:
    for reference in _objects(span.get("references")):
        span_id = _id(reference, "span")
        if span_id:
            # CHILD_OF is 0 in protobuf, which its JSON may leave out.
            follows = reference.get("refType") in ("FOLLOWS_FROM", 1)
            yield _Reference(_id(reference, "trace") or trace_id, span_id, follows)
    if parent := text(span.get("parentSpanID")):
        yield _Reference(trace_id, parent, follows=False)


def _parent(references: Iterator[_Reference], trace_id: str) -> tuple[_Reference | None, list[_Reference]]:
    """The CHILD_OF in the same trace, else the FOLLOWS_FROM in it; and what stays a link.

    A parent that the span only follows from is kept as a link too: it does not wait for the span.
    """
    found = list(dict.fromkeys(references))
    own = [one for one in found if one.trace_id == trace_id and one.span_id.strip("0")]
    parent = next((one for one in own if not one.follows), own[0] if own else None)
    return parent, [one for one in found if one != parent or one.follows]


def _process(process: Mapping[str, Any]) -> tuple[str, dict[str, AttributeValue]]:
    resource = tag_values(process.get("tags"))
    # Names that Jaeger's own clients gave to what OpenTelemetry calls otherwise.
    for old, new in (("hostname", "host.name"), ("ip", "host.ip"), ("client-uuid", "service.instance.id")):
        if old in resource:
            resource.setdefault(new, resource[old])
    service = text(process.get("serviceName"))
    if service:
        resource["service.name"] = service
    return text(resource.get("service.name")) or UNKNOWN_SERVICE, resource


def _status(tags: dict[str, AttributeValue]) -> tuple[int, str]:
    code = text(tags.pop("otel.status_code", "")).upper()
    message = text(tags.pop("otel.status_description", ""))
    if code in ("OK", "ERROR"):
        return (Status.OK if code == "OK" else Status.ERROR), message
    error = tags.get("error")
    said = error.strip().lower() not in ("", "false", "0") if isinstance(error, str) else bool(error)
    return (Status.ERROR if said else Status.UNSET), message


def _event(log: Mapping[str, Any], start_ns: int) -> EventRecord:
    fields = tag_values(log.get("fields"))
    try:
        at_ns = time_ns(log.get("timestamp"), "timestamp")
    except BadValue:
        at_ns = None
    name = fields.pop("event") if isinstance(fields.get("event"), str) else ""
    return EventRecord(start_ns if at_ns is None else at_ns, text(name), fields)


def _popped(tags: dict[str, AttributeValue], *keys: str) -> str:
    found = [text(tags.pop(key, "")) for key in keys]
    return next((words for words in found if words), "")


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in _list(value) if isinstance(item, Mapping)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
