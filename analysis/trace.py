"""One trace as a tree of nodes on one clock: the model that critical path, ledger, detectors and waterfall share.

Order of passes: exact repeats → parents → cycles → clock skew → what the request did not wait for → clipping.
Everything is iterative and at most n log n, so doubled spans, cycles and chains of 100,000 spans are safe.
Raw times stay in `Node.span`; every correction is a note on its node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from analysis.awaited import find_overflow, mark_instrumentation, settle
from analysis.node import Node
from analysis.semantics import RequestClass
from analysis.span import Kind, Span


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
    return build_traces([spans], clock)[0]


def build_traces(traces: Iterable[Iterable[Span]], clock: Mapping[str, int] | None = None) -> list[Trace]:
    """As `build_trace`; which calls go on after their parents is learned from all of the traces."""
    linked = [_linked(spans, clock or {}) for spans in traces]
    overflow = find_overflow(trace.roots for trace in linked)
    for trace in linked:
        settle(trace.roots, overflow)
    return linked


def _linked(spans: Iterable[Span], clock: Mapping[str, int]) -> Trace:
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
    mark_instrumentation(nodes)
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
