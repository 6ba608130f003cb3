"""One trace as the waterfall shows it: depth first, on one clock, with critical path, attempts and corrections."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.accounting import node_category, request_ledger
from analysis.attempt_groups import attempt_groups
from analysis.critical_path import critical_path
from analysis.errors import NotFound
from analysis.neighbours import trace_among_neighbours
from analysis.node import Node
from analysis.semantics import OperationClass, RequestClass
from analysis.span import Kind, Spans
from analysis.trace import Trace
from analysis.trace_reports import SpanDetail, TraceReport, TraceSpanRow, TraceStart

MAX_OTHERS = 20


def trace_report(spans: Spans, trace_id: str, limit: int = 10_000, span_id: int | None = None) -> TraceReport:
    """The trace with at most `limit` rows, about the request that waited for the given span, else the longest root.

    Raises NotFound where the dataset has no span of the trace.
    """
    trace = trace_among_neighbours(spans, trace_id)
    if not trace.roots:
        raise NotFound(f"no span of trace {trace_id} in this dataset")
    return view(trace, limit, span_id)


def view(trace: Trace, limit: int = 10_000, span_id: int | None = None) -> TraceReport:
    """The report of a linked trace."""
    nodes = list(trace.walk())
    main = main_request(trace, span_id)
    critical: dict[int, list[tuple[int, int]]] = {}
    for section in critical_path(main):
        critical.setdefault(id(section.node), []).append((section.start_ns, section.end_ns))
    ordinals = _attempt_ordinals(nodes)
    depths = _depths(nodes)
    start_ns = min(node.start_ns for node in nodes)
    notes = list(trace.notes)
    if trace.repeats:
        notes.append(f"{trace.repeats} exact repeats of spans were left out")
    missing = sum(1 for root in trace.roots if root.span.parent_span_id)
    if missing:
        notes.append(f"{missing} spans name a parent that was not received; they are shown as roots")
    return TraceReport(
        trace_id=trace.trace_id,
        start_ns=start_ns,
        duration_ns=max(node.end_ns for node in nodes) - start_ns,
        root_service=main.span.service,
        root_endpoint=main.span.endpoint,
        services=tuple(dict.fromkeys(node.span.service for node in nodes)),
        span_count=len(nodes),
        error_count=sum(node.span.failed and not _told_elsewhere(node) for node in nodes),
        rows=tuple(
            _row(node, depths[id(node)], tuple(critical.get(id(node), ())), ordinals.get(id(node), 0))
            for node in nodes[:limit]
        ),
        slices=request_ledger(trace, main).slices,
        notes=tuple(notes),
        others=_others(nodes, main),
    )


def _waiting_request(node: Node) -> Node:
    """The outermost request that waited for the node; jobs and work after a response are requests of their own."""
    entry = node
    while node.parent is not None and node.awaited:
        node = node.parent
        entry = node if node.is_entry else entry
    return node if node.is_entry else entry


def _others(nodes: Sequence[Node], main: Node) -> tuple[TraceStart, ...]:
    starts = [
        node
        for node in nodes
        if node is not main and node.is_entry and node.span.request_class == RequestClass.REQUEST
        if node.parent is None or not node.awaited
    ]
    starts.sort(key=lambda node: (node.start_ns, node.span.span_id))
    return tuple(
        TraceStart(node.span.span_id, node.span.service, node.span.endpoint, node.start_ns, node.duration_ns)
        for node in starts[:MAX_OTHERS]
    )


def main_request(trace: Trace, span_id: int | None = None) -> Node:
    """What critical path and ledger are about: the request that waited for the span, else the longest root.

    True roots come before orphans; a span that the trace does not have counts as none.
    """
    selected = trace.nodes.get(span_id) if span_id is not None else None
    if selected is not None:
        return _waiting_request(selected)
    return max(
        trace.roots,
        key=lambda root: (
            root.span.request_class == RequestClass.REQUEST or root.span.parent_span_id == 0,
            root.duration_ns,
            -root.start_ns,
        ),
    )


def _depths(nodes: Sequence[Node]) -> dict[int, int]:
    depths: dict[int, int] = {}
    for node in nodes:
        depths[id(node)] = depths[id(node.parent)] + 1 if node.parent is not None else 0
    return depths


def _attempt_ordinals(nodes: Sequence[Node]) -> dict[int, int]:
    ordinals: dict[int, int] = {}
    retried = {(node.span.service, node.span.message_id) for node in nodes if node.span.attempt > 1}
    for node in nodes:
        span = node.span
        # Celery numbers a job's runs from the second on, under one message id.
        first_run = span.kind == Kind.CONSUMER and span.message_id and span.attempt <= 1
        if first_run and (span.service, span.message_id) in retried:
            ordinals[id(node)] = 1
        for group in attempt_groups(node):
            for position, attempt in enumerate(group.attempts):
                ordinals[id(attempt)] = position + 1
    return ordinals


def _told_elsewhere(node: Node) -> bool:
    """Whether a span repeats what another one says: an answer that the server's span has, or a driver's own query."""
    return node.driver_copy or node.span.operation_class == OperationClass.ASGI


def _row(node: Node, depth: int, critical: tuple[tuple[int, int], ...], ordinal: int) -> TraceSpanRow:
    span = node.span
    return TraceSpanRow(
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        depth=depth,
        service=span.service,
        name=span.name,
        kind=span.kind,
        category=node_category(node),
        start_ns=node.start_ns,
        raw_start_ns=span.start_ns,
        duration_ns=span.duration_ns,
        self_ns=_self_ns(node),
        critical=critical,
        critical_ns=sum(end - start for start, end in critical),
        failed=span.failed,
        outcome=span.outcome,
        error_type=span.error_type,
        attempt=ordinal or (span.attempt if span.attempt > 1 else 0),
        operation=span.operation,
        peer=span.peer,
        scope_name=span.scope_name,
        notes=tuple(node.notes),
        child_count=len(node.children),
    )


def _self_ns(node: Node) -> int:
    """Duration minus the union of the children inside it."""
    covered, edge = 0, node.start_ns
    for child in sorted(node.children, key=lambda child: child.bounds):
        start_ns, end_ns = child.bounds
        start_ns = max(start_ns, edge)
        if end_ns > start_ns:
            covered += end_ns - start_ns
            edge = end_ns
    return node.duration_ns - covered


def span_detail(spans: Spans, trace_id: str, span_id: int) -> SpanDetail:
    """Everything the sender said about one span. Raises NotFound where the dataset does not have it."""
    rows = spans.rows(
        """
        select s.span_id, s.attributes, coalesce(r.attributes, '{}'), coalesce(c.name, ''), coalesce(c.version, ''),
               s.trace_state, s.flags, s.dropped_attributes_count, s.dropped_events_count, s.dropped_links_count,
               s.span_hash, s.status_message
        from trace_spans as s
        left join resources as r on r.resource_id = s.resource_id
        left join scopes as c on c.scope_id = s.scope_id
        where s.trace_id = $trace_id::uuid and s.span_id = $span_id
        order by s.start_ns, s.span_hash limit 1
        """,
        trace_id=trace_id,
        span_id=span_id,
    )
    if not rows:
        raise NotFound(f"no span {span_id:016x} in trace {trace_id}")
    row = rows[0]
    identity = {"trace_id": trace_id, "span_id": span_id, "span_hash": row[10]}
    events = spans.rows(
        """
        select time_ns, name, attributes from span_events
        where trace_id = $trace_id::uuid and span_id = $span_id and span_hash = $span_hash
        order by time_ns, position
        """,
        **identity,
    )
    links = spans.rows(
        """
        select replace(linked_trace_id::varchar, '-', ''), linked_span_id, attributes from span_links
        where trace_id = $trace_id::uuid and span_id = $span_id and span_hash = $span_hash
        order by position
        """,
        **identity,
    )
    return SpanDetail(
        span_id=row[0],
        attributes=row[1],
        resource=row[2],
        scope_name=row[3],
        scope_version=row[4],
        events=tuple((time_ns, name, attributes) for time_ns, name, attributes in events),
        links=tuple((linked, linked_span, attributes) for linked, linked_span, attributes in links),
        trace_state=row[5],
        flags=row[6],
        dropped_attributes_count=row[7],
        dropped_events_count=row[8],
        dropped_links_count=row[9],
        status_message=row[11],
    )
