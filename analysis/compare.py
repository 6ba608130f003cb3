"""Two requests laid over each other by structure: where their times part, and which calls only one of them makes."""

from __future__ import annotations

from collections import Counter

from analysis.accounting import BookedRequest, bookings, ledger_of
from analysis.errors import NotFound
from analysis.ledger import Category, Ledger
from analysis.neighbours import trace_among_neighbours
from analysis.node import Node
from analysis.path_profile import path_profile, step_name
from analysis.semantics import OperationClass
from analysis.span import Spans
from analysis.tail_sentence import MAX_CAUSES, MIN_DIFFERENCE_NS, MIN_DIFFERENCE_SHARE, MIN_SHARE, spent_words
from analysis.trace import Trace
from analysis.trace_reports import CallCounts, ComparedRequest, PlaceTimes, TraceComparison
from analysis.trace_view import main_request
from analysis.wording import duration_text, listed_text, share_text


def compare_traces(
    spans: Spans, trace_id: str, span_id: int | None, other_id: str, other_span_id: int | None
) -> TraceComparison:
    """One request against another: each the given span where that is a request, else the one that waited for it.

    Without a span it is the trace's longest root; of the other trace the longest request of the same endpoint, if any.
    Raises NotFound where the dataset has no span of a trace, or a trace has no such span.
    """
    trace, root = _request(spans, trace_id, span_id)
    other_trace, other_root = _request(spans, other_id, other_span_id, like=root)
    booked = BookedRequest(root, bookings(trace, root))
    other_booked = BookedRequest(other_root, bookings(other_trace, other_root))
    ledger, other_ledger = (ledger_of(one.root, one.booked) for one in (booked, other_booked))
    places = _places(ledger, other_ledger)
    return TraceComparison(
        this=_told(trace, root, ledger),
        other=_told(other_trace, other_root, other_ledger),
        sentence=_sentence(ledger.duration_ns, other_ledger.duration_ns, places),
        places=places,
        calls=_calls(root, other_root),
        path=path_profile([booked], [other_booked]),
    )


def _request(spans: Spans, trace_id: str, span_id: int | None, like: Node | None = None) -> tuple[Trace, Node]:
    trace = trace_among_neighbours(spans, trace_id)
    if not trace.roots:
        raise NotFound(f"no span of trace {trace_id} in this dataset")
    if span_id is not None and span_id not in trace.nodes:
        raise NotFound(f"trace {trace_id} has no span {span_id:016x}")
    named = trace.nodes[span_id] if span_id is not None else _longest_like(trace, like)
    return trace, named if named is not None and named.is_entry else main_request(trace, span_id)


def _longest_like(trace: Trace, like: Node | None) -> Node | None:
    if like is None:
        return None
    wanted = like.span.service, like.span.endpoint
    same = [node for node in trace.requests() if (node.span.service, node.span.endpoint) == wanted]
    return max(same, key=lambda node: node.duration_ns, default=None)


def _told(trace: Trace, root: Node, ledger: Ledger) -> ComparedRequest:
    span = root.span
    return ComparedRequest(
        trace_id=trace.trace_id,
        span_id=span.span_id,
        service=span.service,
        endpoint=span.endpoint,
        start_ns=root.start_ns,
        duration_ns=ledger.duration_ns,
        failed=span.failed,
        slices=ledger.slices,
    )


def _places(ledger: Ledger, other: Ledger) -> tuple[PlaceTimes, ...]:
    times: tuple[Counter[tuple[Category, str]], Counter[tuple[Category, str]]] = Counter(), Counter()
    for found, slices in zip(times, (ledger.slices, other.slices), strict=True):
        for part in slices:
            found[part.category, part.label] += part.duration_ns
    rows = [PlaceTimes(*key, times[0][key], times[1][key]) for key in times[0] | times[1]]
    rows.sort(key=lambda row: (-abs(row.difference_ns), row.category.value, row.label))
    return tuple(rows)


def _calls(root: Node, other: Node) -> tuple[CallCounts, ...]:
    made, made_by_other = _made(root), _made(other)
    rows = [
        CallCounts(*call, made[call], made_by_other[call])
        for call in made | made_by_other
        if made[call] != made_by_other[call]
    ]
    return tuple(sorted(rows, key=lambda row: (-abs(row.this - row.other), row.service, row.name)))


def _made(root: Node) -> Counter[tuple[str, str]]:
    return Counter(
        (node.span.service, step_name(node))
        for node in root.walk()
        if not node.is_entry and not node.driver_copy and node.span.operation_class != OperationClass.ASGI
    )


def _sentence(this_ns: int, other_ns: int, places: tuple[PlaceTimes, ...]) -> str:
    difference = this_ns - other_ns
    opening = f"This request took {duration_text(this_ns)}, the other {duration_text(other_ns)}"
    if abs(difference) < max(MIN_DIFFERENCE_NS, MIN_DIFFERENCE_SHARE * other_ns):
        return f"{opening}: about as long."
    word = "more" if difference > 0 else "less"
    causes = [row for row in places if row.difference_ns * difference > 0]
    causes = [row for row in causes if abs(row.difference_ns) >= MIN_SHARE * abs(difference)][:MAX_CAUSES]
    parts = [
        f"{duration_text(abs(row.difference_ns))} {word} {spent_words(row.category, row.label)}"
        f" ({share_text(abs(row.difference_ns / difference))}{' of the difference' if position == 0 else ''})"
        for position, row in enumerate(causes)
    ]
    if not parts:
        return f"{opening}: {duration_text(abs(difference))} {word}, in many small places."
    return f"{opening}. It spent {listed_text(parts)}."
