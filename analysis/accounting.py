"""Books every section of a request's critical path under a category: the ledger that adds up to the nanosecond."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from analysis.attempt_groups import attempt_groups
from analysis.critical_path import Section, critical_path
from analysis.ledger import Category, Ledger, Slice
from analysis.node import Node
from analysis.semantics import OperationClass, ParentOrigin
from analysis.span import Kind
from analysis.trace import Trace

MAX_SPANS_A_SLICE = 50
MAX_LABEL_LENGTH = 120
_ORDER = {category: position for position, category in enumerate(Category)}


class Booking(NamedTuple):
    """A stretch of the critical path with its category."""

    category: Category
    words: str | None
    """What to call it where it is not the span's own time."""
    start_ns: int
    end_ns: int
    node: Node

    @property
    def label(self) -> str:
        return self.words if self.words is not None else _label(self.node, self.category)

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


class BookedRequest(NamedTuple):
    """A request with its critical path, every nanosecond booked once, and how many requests it stands for."""

    root: Node
    booked: Sequence[Booking]
    adjusted_count: float = 1.0


def request_ledger(trace: Trace, root: Node) -> Ledger:
    """The ledger of the request that begins at `root`, down through every service below it."""
    return ledger_of(root, bookings(trace, root))


def ledger_of(root: Node, booked: Sequence[Booking]) -> Ledger:
    """Bookings summed by category and label."""
    totals: dict[tuple[Category, str], int] = defaultdict(int)
    spans: dict[tuple[Category, str], dict[int, None]] = defaultdict(dict)
    for booking in booked:
        key = (booking.category, booking.label)
        totals[key] += booking.duration_ns
        if len(spans[key]) < MAX_SPANS_A_SLICE:
            spans[key][booking.node.span.span_id] = None
    slices = [Slice(key[0], key[1], total, tuple(spans[key])) for key, total in totals.items()]
    slices.sort(key=lambda part: (_ORDER[part.category], -part.duration_ns, part.label))
    return Ledger(root.span.trace_id, root.span.span_id, root.duration_ns, tuple(slices))


def bookings(trace: Trace, root: Node) -> list[Booking]:
    """The critical path of a request in time order, every nanosecond of it booked once."""
    failed, backoffs = _attempts(root)
    lost = _lost_spans(trace)
    booked: list[Booking] = []
    for section in critical_path(root):
        waste = failed.get(id(section.node))
        if waste is not None:
            booked.append(Booking(Category.FAILED_ATTEMPTS, waste, section.start_ns, section.end_ns, section.node))
            continue
        gaps = backoffs.get(id(section.node))
        if gaps is None and not lost:
            booked.append(Booking(node_category(section.node), None, section.start_ns, section.end_ns, section.node))
        else:
            booked.extend(_with_gaps(section, gaps, lost))
    return booked


class _Marks:
    """Labelled stretches of time without overlap; of two that overlap, the later one begins where the earlier ends."""

    def __init__(self, stretches: Iterable[tuple[int, int, str]]) -> None:
        self._parts: list[tuple[int, int, str]] = []
        cursor: int | None = None
        for start, end, label in sorted(stretches):
            start = start if cursor is None else max(start, cursor)
            if end > start:
                self._parts.append((start, end, label))
                cursor = end
        self._ends = [end for _, end, _ in self._parts]

    def cut(self, start_ns: int, end_ns: int) -> Iterator[tuple[int, int, str | None]]:
        """The stretch in parts, in order: (start, end, label), None where nothing is marked."""
        cursor = start_ns
        for position in range(bisect_right(self._ends, start_ns), len(self._parts)):
            start, end, label = self._parts[position]
            if start >= end_ns:
                break
            if start > cursor:
                yield cursor, start, None
            yield max(start, cursor), min(end, end_ns), label
            cursor = min(end, end_ns)
        if cursor < end_ns:
            yield cursor, end_ns, None


def _attempts(root: Node) -> tuple[dict[int, str], dict[int, _Marks]]:
    """Nodes inside failed attempts with their label, and backoff gaps of the spans that own them."""
    failed: dict[int, str] = {}
    backoffs: dict[int, _Marks] = {}
    for node in root.walk():
        if id(node) in failed or not node.children:
            continue
        gaps: list[tuple[int, int, str]] = []
        for group in attempt_groups(node):
            label = f"{node.span.service} → {group.callee}"
            for attempt in group.failed:
                for below in attempt.walk():
                    failed[id(below)] = label
            gaps.extend((start, end, label) for start, end in group.gaps)
        if gaps:
            backoffs[id(node)] = _Marks(gaps)
    return failed, backoffs


def _lost_spans(trace: Trace) -> dict[str, _Marks]:
    """By service: times of spans whose parent belongs to the same process and was not received."""
    lost: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for root in trace.roots:
        if root.span.parent_span_id and root.span.parent_origin == ParentOrigin.LOCAL:
            lost[root.span.service].append((root.start_ns, root.end_ns, "the span that covers it was not received"))
    return {service: _Marks(stretches) for service, stretches in lost.items()}


_NO_MARKS = _Marks(())


def _with_gaps(section: Section, gaps: _Marks | None, lost: Mapping[str, _Marks]) -> Iterator[Booking]:
    """The section in parts: backoff first, then what lost spans cover of the service's own code."""
    node = section.node
    category = node_category(node)
    uncovered = lost.get(node.span.service, _NO_MARKS) if category == Category.OWN_CODE else _NO_MARKS
    for start, end, words in (gaps or _NO_MARKS).cut(section.start_ns, section.end_ns):
        if words is not None:
            yield Booking(Category.BACKOFF, words, start, end, node)
            continue
        for part_start, part_end, reason in uncovered.cut(start, end):
            if reason is not None:
                yield Booking(Category.UNACCOUNTED, reason, part_start, part_end, node)
            else:
                yield Booking(category, None, part_start, part_end, node)


_OF_CLASS: Mapping[str, Category] = {
    OperationClass.DATABASE: Category.DATABASE,
    OperationClass.DATABASE_SESSION: Category.DATABASE,
    OperationClass.CACHE: Category.CACHE,
    OperationClass.PRODUCER: Category.MESSAGING,
}


def node_category(node: Node) -> Category:
    """The category of the time in which the request waited for this span itself: its colour in the waterfall."""
    span = node.span
    match span.operation_class:
        case OperationClass.POOL:
            return Category.DATABASE if node.opens_connection else Category.POOL
        case OperationClass.HTTP | OperationClass.RPC if span.kind == Kind.CLIENT:
            return Category.EDGE_GAP if _callee(node) else Category.REMOTE_CALL
        case named:
            return _OF_CLASS.get(named, Category.OWN_CODE)


def _callee(node: Node) -> str:
    return next((child.span.service for child in node.children if child.is_entry), "")


def _label(node: Node, category: Category) -> str:
    """Whose time the span's own time is, in the category that `node_category` gives it."""
    span = node.span
    match category:
        case Category.DATABASE if span.operation_class == OperationClass.POOL:
            return f"{span.service} → {span.peer or 'database'}: opening a connection"
        case Category.DATABASE | Category.CACHE:
            return _called(span.service, span.peer, span.operation)
        case Category.POOL:
            return f"{span.service}: pool of {span.peer or 'database'}"
        case Category.MESSAGING:
            return _short(f"{span.service} → {span.peer or span.operation}")
        case Category.EDGE_GAP:
            return f"{span.service} → {_callee(node)}"
        case Category.REMOTE_CALL:
            return _called(span.service, "", span.operation)
        case _:
            return span.service


def _called(service: str, peer: str, operation: str) -> str:
    return _short(f"{service} → {peer}: {operation}" if peer else f"{service} → {operation}")


def _short(label: str) -> str:
    return label if len(label) <= MAX_LABEL_LENGTH else label[: MAX_LABEL_LENGTH - 1].rstrip() + "…"
