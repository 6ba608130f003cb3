"""Spans drawn as text, for detectors' examples and tests: one line a span, indented under its parent, times in ms.

    gateway  GET /cart                     0..900
      stock  POST /reserve                10..300 error
      gateway  SELECT … WHERE id = $1    310..320 db

Columns are separated by two or more blanks. A line of another service than its parent's is a call to it: a CLIENT span
of the parent's service with a SERVER span of the named one inside. Words after the times: `db`, `cache`, `pool`,
`session`, `http` (a call whose callee is not instrumented), `producer`, `consumer`, `error`, `timeout`, `status=503`,
`target=…` (the literal statement or URL), `id=…` (message id).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from analysis.attributes import Attributes
from analysis.normalise import content_hash64
from analysis.outcomes import ExceptionEvent
from analysis.semantics import parent_origin, promote
from analysis.span import Kind, Span, Status

EPOCH_NS = 1_700_000_000_000_000_000
EDGE_NS = 500_000
"""Half a millisecond on each side between a drawn call and its server span."""

_LINE = re.compile(
    r"^(?P<indent> *)(?P<service>\S+)  +(?P<name>\S.*?)  +(?P<start>[\d.]+?)\.\.(?P<end>[\d.]+)(?P<words>.*)$"
)
_SYSTEMS = {"db": "postgresql", "session": "postgresql", "pool": "postgresql", "cache": "redis"}


@dataclass(frozen=True)
class SketchedSpan:
    """A drawn span with what a sender would have said, so that tests can also store it."""

    span: Span
    attributes: Attributes
    flags: int


def sketch(text: str, trace: int = 1, start_ns: int = EPOCH_NS) -> list[Span]:
    """The spans of one drawn trace; raises ValueError with the line that cannot be read."""
    return [drawn.span for drawn in sketched_spans(text, trace, start_ns)]


def sketched_spans(text: str, trace: int = 1, start_ns: int = EPOCH_NS) -> list[SketchedSpan]:
    """The same with attributes and flags."""
    drawn: list[SketchedSpan] = []
    open_spans: list[tuple[int, SketchedSpan]] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        found = _LINE.match(line.rstrip())
        if not found:
            raise ValueError(f"not a sketched span: {line!r}")
        indent = len(found["indent"])
        while open_spans and open_spans[-1][0] >= indent:
            open_spans.pop()
        parent = open_spans[-1][1] if open_spans else None
        words = found["words"].split()
        begin_ns = start_ns + round(float(found["start"]) * 1_000_000)
        end_ns = start_ns + round(float(found["end"]) * 1_000_000)
        draw = _Pen(trace, drawn)
        service, name = found["service"], found["name"]
        if parent is not None and parent.span.service != service and "consumer" not in words:
            call = draw.span(
                parent, parent.span.service, name, Kind.CLIENT, begin_ns, end_ns, [*words, "http"], service
            )
            inside = (min(begin_ns + EDGE_NS, end_ns), max(end_ns - EDGE_NS, begin_ns))
            top = draw.span(call, service, name, Kind.SERVER, *inside, words, "")
        else:
            top = draw.span(parent, service, name, _kind(parent, words), begin_ns, end_ns, words, "")
        open_spans.append((indent, top))
    return drawn


def _kind(parent: SketchedSpan | None, words: list[str]) -> Kind:
    if "producer" in words:
        return Kind.PRODUCER
    if "consumer" in words:
        return Kind.CONSUMER
    if any(word in words for word in ("db", "cache", "pool", "session", "http")):
        return Kind.CLIENT
    return Kind.SERVER if parent is None else Kind.INTERNAL


class _Pen:
    def __init__(self, trace: int, drawn: list[SketchedSpan]) -> None:
        self.trace = trace
        self.drawn = drawn

    def span(
        self,
        parent: SketchedSpan | None,
        service: str,
        name: str,
        kind: Kind,
        start_ns: int,
        end_ns: int,
        words: list[str],
        peer: str,
    ) -> SketchedSpan:
        options = dict(word.split("=", 1) for word in words if "=" in word)
        scope = "opentelemetry.instrumentation.sqlalchemy" if "pool" in words else "sketch"
        attributes = _attributes(name, kind, words, options, peer)
        status = Status.ERROR if {"error", "timeout"} & set(words) or "status" in options else Status.UNSET
        exception = ExceptionEvent("TimeoutError", "") if "timeout" in words else None
        remote = parent is not None and parent.span.service != service
        flags = 0x100 | (0x200 if remote else 0)
        parent_id = parent.span.span_id if parent else 0
        facts = promote(
            kind=kind,
            name="connect" if "pool" in words else name,
            scope_name=scope,
            status=status,
            status_message="",
            attributes=attributes,
            origin=parent_origin(parent_id, flags),
            exception=exception,
            has_events=exception is not None,
        )
        span_id = content_hash64(f"{self.trace}/{len(self.drawn)}")
        span = Span(
            trace_id=f"{self.trace:032x}",
            span_id=span_id,
            parent_span_id=parent_id,
            parent_origin=facts.parent_origin,
            kind=kind,
            service=service,
            instance=f"{service}-1",
            host="",
            scope_name=scope,
            name="connect" if "pool" in words else name,
            endpoint=facts.endpoint,
            operation_class=facts.operation_class,
            operation=facts.operation,
            peer=facts.peer,
            start_ns=start_ns,
            duration_ns=max(0, end_ns - start_ns),
            status=status,
            outcome=facts.outcome,
            error_type=facts.error_type,
            http_status=facts.http_status,
            attempt=facts.attempt,
            ready_ns=facts.ready_ns,
            message_id=facts.message_id,
            target_hash=facts.target_hash,
            request_class=facts.request_class,
            span_hash=span_id,
        )
        self.drawn.append(SketchedSpan(span, attributes, flags))
        return self.drawn[-1]


def _attributes(name: str, kind: Kind, words: list[str], options: dict[str, str], peer: str) -> dict[str, object]:
    attributes: dict[str, object] = {}
    system = next((_SYSTEMS[word] for word in words if word in _SYSTEMS), "")
    if system:
        attributes["db.system.name"] = system
        attributes["db.namespace"] = "app"
        if "pool" not in words:
            attributes["db.query.text"] = options.get("target", name)
    elif kind == Kind.CLIENT:
        method, _, path = name.partition(" ")
        attributes["http.request.method"] = method
        url = path if "://" in path else f"http://{peer or 'remote'}{path}"
        attributes["url.full"] = options.get("target", url)
        attributes["server.address"] = peer or "remote"
    elif kind == Kind.SERVER:
        method, _, path = name.partition(" ")
        attributes["http.request.method"] = method
        attributes["http.route"] = path
    if kind in (Kind.CLIENT, Kind.SERVER) and not system:
        code = options.get("status") or ("500" if "error" in words else "" if "timeout" in words else "200")
        if code:
            attributes["http.response.status_code"] = int(code)
    if "id" in options:
        attributes["messaging.message.id"] = options["id"]
    return attributes
