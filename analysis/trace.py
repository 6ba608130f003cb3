"""One trace as a tree of nodes on one clock: the model that critical path, ledger, detectors and waterfall share.

Order of passes: exact repeats → parents → cycles → clock skew → what the request did not wait for → clipping.
Everything is iterative and at most n log n, so doubled spans, cycles and chains of 100,000 spans are safe.
Raw times stay in `Node.span`; every correction is a note on its node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from analysis.attempt_rules import SQLALCHEMY, Covering
from analysis.semantics import OperationClass, RequestClass
from analysis.span import Kind, Span

OVERFLOW_TOLERANCE_NS = 1_000_000
OVERFLOW_TOLERANCE_SHARE = 0.01

_DATABASE = (OperationClass.DATABASE, OperationClass.DATABASE_SESSION)
_ENTRY_KINDS = (Kind.SERVER, Kind.CONSUMER)


@dataclass(slots=True, eq=False)
class Node:
    """A span in its tree; times are corrected for skew, and clipped to the parent unless it is an entry span.

    Entry spans keep their own duration, because it is a request's; `bounds` says what of it lies inside the caller's.
    """

    span: Span
    start_ns: int
    end_ns: int
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    """In start order; those that the request waited for and those that it did not."""
    awaited: bool = True
    """False for work that goes on after its parent ended, asynchronous consumers and what instrumentation doubles."""
    driver_copy: bool = False
    """A driver's span of a query that SQLAlchemy's span shows already."""
    is_entry: bool = True
    """Whether a request begins here: a root, a server or consumer span, or the first span of another service."""
    bounds: tuple[int, int] = (0, 0)
    """(start_ns, end_ns) of what lies inside the parent's own times; both equal where nothing does."""
    notes: list[str] = field(default_factory=list)
    _order: list[Node] = field(default_factory=list, repr=False)
    """All nodes of the trace, depth first in start order: a subtree is a slice of it."""
    _first: int = 0
    _behind: int = 0

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns

    @property
    def called(self) -> str:
        """What a client span calls: service and endpoint of its callee where that is instrumented, else the operation.

        Addresses change with every deployment; services and endpoints stay, so that findings keep their names.
        """
        callee = next((child.span for child in self.children if child.is_entry), None)
        return f"{callee.service} {callee.endpoint}" if callee is not None else self.span.operation

    def waited_for(self) -> list[Node]:
        """Children whose end the parent waited for, in start order."""
        return [child for child in self.children if child.awaited]

    def walk(self) -> list[Node]:
        """This node and all below it, depth first in start order."""
        return self._order[self._first : self._behind]

    def own_nodes(self) -> list[Node]:
        """This entry span and what its own service did for it: other entry spans and what is below them left out."""
        order, at = self._order, self._first + 1
        own = [self]
        while at < self._behind:
            node = order[at]
            if node.is_entry:
                at = node._behind
            else:
                own.append(node)
                at += 1
        return own


@dataclass(frozen=True)
class Trace:
    """A linked trace. `roots` are in start order: true roots and spans whose parent is not in the data."""

    trace_id: str
    roots: tuple[Node, ...]
    nodes: Mapping[int, Node]
    """By span id; where two different spans share an id, the first by start."""
    repeats: int
    notes: tuple[str, ...]

    def walk(self) -> Iterator[Node]:
        for root in self.roots:
            yield from root.walk()

    def requests(self) -> Iterator[Node]:
        """Entry spans that stand for requests, depth first."""
        for node in self.walk():
            if node.is_entry and node.span.request_class in (RequestClass.REQUEST, RequestClass.CANDIDATE):
                yield node


def build_trace(spans: Iterable[Span], clock: Mapping[str, int] | None = None) -> Trace:
    """Links the spans of one trace; `clock` gives nanoseconds to subtract from each host's times (`host_clock`)."""
    nodes, repeats = _distinct(spans)
    by_id: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        by_id[node.span.span_id].append(node)
    trace_notes = []
    for twins in by_id.values():
        for twin in twins[1:]:
            twin.notes.append("another span of this trace has the same id")
    _link(nodes, by_id)
    if _cut_cycles(nodes):
        trace_notes.append("some spans name each other as parents; the cycle was cut at its earliest span")
    roots = sorted((node for node in nodes if node.parent is None), key=_order)
    if clock:
        _apply_clock(nodes, clock)
    for node in nodes:
        node.children.sort(key=_order)
    _mark_instrumentation(nodes)
    _settle(roots)
    first = {span_id: twins[0] for span_id, twins in by_id.items()}
    trace_id = nodes[0].span.trace_id if nodes else ""
    return Trace(trace_id, tuple(roots), first, repeats, tuple(trace_notes))


def host_clock(traces: Iterable[Sequence[Span]]) -> dict[str, int]:
    """Nanoseconds each host's clock runs ahead of its callers', from the median over the calls between two hosts.

    The offset of a call is ((server.start - client.start) - (client.end - server.end)) / 2: what remains if request
    and response take equally long (Jaeger's and Zipkin's adjusters split the same residual, but edge by edge; over a
    pair of hosts jitter averages out). Hosts that resources do not name, and pairs whose servers mostly lie inside
    their clients already, are left alone.
    """
    offsets: dict[tuple[str, str], list[int]] = defaultdict(list)
    outside: dict[tuple[str, str], int] = defaultdict(int)
    for spans in traces:
        clients = {span.span_id: span for span in spans if span.kind == Kind.CLIENT and span.host}
        for span in spans:
            client = clients.get(span.parent_span_id)
            if span.kind != Kind.SERVER or not span.host or client is None or client.host == span.host:
                continue
            pair = (client.host, span.host)
            offsets[pair].append(((span.start_ns - client.start_ns) - (client.end_ns - span.end_ns)) // 2)
            outside[pair] += span.start_ns < client.start_ns or span.end_ns > client.end_ns
    moved = {
        pair: sorted(values)[len(values) // 2] for pair, values in offsets.items() if 2 * outside[pair] > len(values)
    }
    clock: dict[str, int] = {}
    neighbours: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for caller, callee in offsets:
        offset = moved.get((caller, callee), 0)
        neighbours[caller].append((callee, offset))
        neighbours[callee].append((caller, -offset))
    callers = sorted({caller for caller, _ in offsets}, key=lambda host: (host in {c for _, c in offsets}, host))
    for origin in callers:
        if origin in clock:
            continue
        clock[origin] = 0
        reached = [origin]
        while reached:
            host = reached.pop()
            for other, offset in neighbours[host]:
                if other not in clock:
                    clock[other] = clock[host] + offset
                    reached.append(other)
    return {host: offset for host, offset in clock.items() if offset}


def _order(node: Node) -> tuple[int, int, int, int]:
    return node.start_ns, -node.end_ns, node.span.span_id, node.span.span_hash


def _distinct(spans: Iterable[Span]) -> tuple[list[Node], int]:
    seen: set[tuple[int, int]] = set()
    nodes: list[Node] = []
    repeats = 0
    for span in spans:
        key = (span.span_id, span.span_hash)
        if key in seen:
            repeats += 1
            continue
        seen.add(key)
        nodes.append(Node(span, span.start_ns, span.end_ns))
    nodes.sort(key=_order)
    return nodes, repeats


def _link(nodes: list[Node], by_id: Mapping[int, list[Node]]) -> None:
    for node in nodes:
        if node.span.parent_span_id == 0:
            continue
        candidates = [twin for twin in by_id.get(node.span.parent_span_id, ()) if twin is not node]
        if not candidates:
            named_itself = node.span.parent_span_id == node.span.span_id
            node.notes.append("names itself as its parent" if named_itself else "parent not received")
            continue
        same = [twin for twin in candidates if twin.span.service == node.span.service]
        node.parent = (same or candidates)[0]
        node.parent.children.append(node)


def _cut_cycles(nodes: list[Node]) -> bool:
    reached = [node for node in nodes if node.parent is None]
    for parent in reached:
        reached.extend(parent.children)
    if len(reached) == len(nodes):
        return False
    done: set[int] = set()
    cut = False
    for start in nodes:
        path: list[Node] = []
        on_path: set[int] = set()
        node: Node | None = start
        while node is not None and id(node) not in done and id(node) not in on_path:
            path.append(node)
            on_path.add(id(node))
            node = node.parent
        if node is not None and id(node) in on_path:
            cycle = path[path.index(node) :]
            first = min(cycle, key=_order)
            assert first.parent is not None
            first.parent.children.remove(first)
            first.parent = None
            first.notes.append("part of a cycle of parents; shown as a root")
            cut = True
        done.update(on_path)
    return cut


def _apply_clock(nodes: list[Node], clock: Mapping[str, int]) -> None:
    for node in nodes:
        offset = clock.get(node.span.host, 0)
        if offset:
            node.start_ns -= offset
            node.end_ns -= offset
            node.notes.append(
                f"moved by {-offset / 1e6:+.3f} ms: clock of host {node.span.host} differs from its caller's"
            )


def _mark_instrumentation(nodes: list[Node]) -> None:
    for node in nodes:
        if node.span.operation_class == OperationClass.ASGI:
            node.awaited = False
    parents = {id(node.parent): node.parent for node in nodes if node.span.scope_name == SQLALCHEMY}
    for parent in parents.values():
        if parent is not None:
            _mark_driver_copies(parent)


def _mark_driver_copies(parent: Node) -> None:
    own: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for child in parent.children:
        if child.span.scope_name == SQLALCHEMY:
            own[child.span.operation].append((child.start_ns, child.end_ns))
    covering = {operation: Covering(times) for operation, times in own.items()}
    for child in parent.children:
        if child.span.operation_class not in _DATABASE or child.span.scope_name == SQLALCHEMY:
            continue
        queries = covering.get(child.span.operation)
        if queries is not None and queries.covers(child.start_ns, child.end_ns):
            child.driver_copy = True
            child.awaited = False
            child.notes.append("the driver's own span of the SQLAlchemy query beside it; counted once")


def _settle(roots: list[Node]) -> None:
    """Decides top down what was waited for, clips the rest to the parent, and notes the order of the walk."""
    order: list[Node] = []
    stack = roots[::-1]
    while stack:
        parent = stack.pop()
        parent._order, parent._first = order, len(order)
        order.append(parent)
        for child in parent.children:
            child.is_entry = child.span.kind in _ENTRY_KINDS or child.span.service != parent.span.service
            if child.awaited:
                _settle_child(parent, child)
            start_ns, end_ns = max(child.start_ns, parent.start_ns), min(child.end_ns, parent.end_ns)
            child.bounds = start_ns, max(start_ns, end_ns)
        stack.extend(reversed(parent.children))
    for root in roots:
        root.bounds = root.start_ns, root.end_ns
    for node in reversed(order):
        last = node.children[-1] if node.children else None
        node._behind = last._behind if last is not None else node._first + 1


def _settle_child(parent: Node, child: Node) -> None:
    # What a producer's own service does below it, such as Celery's LPUSH to Redis, is part of sending.
    if parent.span.operation_class == OperationClass.PRODUCER and child.is_entry:
        child.awaited = False
        child.notes.append("runs asynchronously: its producer did not wait for it")
        return
    if child.start_ns >= parent.end_ns and child.end_ns > parent.end_ns:
        child.awaited = False
        child.notes.append("continues after the response: it began when its parent had ended")
        return
    if child.end_ns <= parent.start_ns and child.start_ns < parent.start_ns:
        child.awaited = False
        child.notes.append("ended before its parent began")
        return
    tolerance = max(OVERFLOW_TOLERANCE_NS, int(OVERFLOW_TOLERANCE_SHARE * parent.duration_ns))
    remote = parent.span.service != child.span.service or child.span.kind == Kind.SERVER
    if child.end_ns > parent.end_ns + tolerance and not remote:
        # A parent that ended before its child cannot have waited for it: both ran on one clock, in one process.
        child.awaited = False
        child.notes.append("continues after the response: it ended after its parent")
        return
    clipped = "its caller's path counts it up to there" if child.is_entry else "clipped"
    if child.end_ns > parent.end_ns:
        child.notes.append(f"ended {(child.end_ns - parent.end_ns) / 1e6:.3f} ms after its parent; {clipped}")
        child.end_ns = child.end_ns if child.is_entry else parent.end_ns
    if child.start_ns < parent.start_ns:
        child.notes.append(f"began {(parent.start_ns - child.start_ns) / 1e6:.3f} ms before its parent; {clipped}")
        child.start_ns = child.start_ns if child.is_entry else parent.start_ns
