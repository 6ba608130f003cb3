"""What a request waited for: what instrumentation doubles, work that goes on after its parent ended, and clipping."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from analysis.attempt_rules import SQLALCHEMY, Covering
from analysis.node import Node
from analysis.semantics import OperationClass
from analysis.span import Kind, Span

OVERFLOW_TOLERANCE_NS = 1_000_000
OVERFLOW_TOLERANCE_SHARE = 0.01
MIN_OCCURRENCES = 10
MIN_OUTLIVING_SHARE = 0.2

_DATABASE = (OperationClass.DATABASE, OperationClass.DATABASE_SESSION)
_ENTRY_KINDS = (Kind.SERVER, Kind.CONSUMER)
_CONTINUES = "continues after the response"


class Outliving(NamedTuple):
    """How many of the calls of one call path ended after the parent that made them."""

    after: int
    of: int

    @property
    def known(self) -> bool:
        return self.of >= MIN_OCCURRENCES

    @property
    def awaited(self) -> bool:
        return self.after < MIN_OUTLIVING_SHARE * self.of

    def __str__(self) -> str:
        return f"{self.after} of {self.of} such calls"


class Overflow(NamedTuple):
    """Which nodes ended after their parents, and how usual that is on the call paths where it happened."""

    nodes: frozenset[int]
    """By `id(node)`."""
    paths: Mapping[int, Outliving]
    """By `id(node)`, of every node on such a path that is known well enough."""


def find_overflow(traces: Iterable[Sequence[Node]]) -> Overflow:
    """Of the roots of linked traces, times on one clock and not yet clipped.

    CRISP (USENIX ATC 2022) takes a call path for asynchronous once a call on it has outlived its parent; here a share
    of them must, so that one timeout or one skewed trace does not take the others off the path. A parent that failed
    may have given up waiting and says nothing about the others.
    """
    all_roots = [root for roots in traces for root in roots]
    nodes = frozenset(
        id(child) for parent in _below(all_roots) for child in parent.children if _overflows(parent, child)
    )
    return Overflow(nodes, _outliving(all_roots, nodes) if nodes else {})


def _below(roots: Iterable[Node]) -> Iterable[Node]:
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node.children:
            yield node
            stack.extend(node.children)


def _overflows(parent: Node, child: Node) -> bool:
    # Both sides are moved alike by the clock of their host.
    return child.awaited and child.end_ns > parent.end_ns and outlives(parent.span, child.span)


def outlives(parent: Span, child: Span) -> bool:
    """Whether a call ended after its parent, both in one process and so on one clock."""
    if child.end_ns <= parent.end_ns + OVERFLOW_TOLERANCE_NS:
        return False
    if parent.service != child.service or child.kind == Kind.SERVER:
        return False
    return child.end_ns > parent.end_ns + int(OVERFLOW_TOLERANCE_SHARE * parent.duration_ns)


def _outliving(roots: Sequence[Node], overflowing: frozenset[int]) -> dict[int, Outliving]:
    numbers: dict[tuple[int, str, str], int] = {}
    members: dict[int, list[Node]] = defaultdict(list)
    after: dict[int, int] = defaultdict(int)
    seen: dict[int, int] = defaultdict(int)
    unusual: set[int] = set()
    stack = [(root, 0) for root in roots]
    while stack:
        node, above = stack.pop()
        path = numbers.setdefault((above, node.span.service, node.span.operation), len(numbers) + 1)
        members[path].append(node)
        if id(node) in overflowing:
            unusual.add(path)
        if node.parent is not None and not node.parent.span.failed:
            seen[path] += 1
            after[path] += id(node) in overflowing
        stack.extend((child, path) for child in node.children)
    rates = {path: Outliving(after[path], seen[path]) for path in unusual}
    return {id(node): rate for path, rate in rates.items() if rate.known for node in members[path]}


def mark_instrumentation(nodes: list[Node]) -> None:
    """Takes off the path what doubles other spans: ASGI messages, and drivers' spans of SQLAlchemy's statements."""
    for node in nodes:
        if node.span.operation_class == OperationClass.ASGI:
            node.awaited = False
        elif node.span.operation_class == OperationClass.POOL:
            node.opens_connection = any(child.span.operation_class in _DATABASE for child in node.children) or None
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


def settle(roots: Sequence[Node], overflow: Overflow) -> None:
    """Decides top down what was waited for, clips the rest to the parent, and notes the order of the walk."""
    order: list[Node] = []
    stack = list(reversed(roots))
    while stack:
        parent = stack.pop()
        parent._order, parent._first = order, len(order)
        order.append(parent)
        for child in parent.children:
            child.is_entry = child.span.kind in _ENTRY_KINDS or child.span.service != parent.span.service
            if child.awaited:
                _settle_child(parent, child, overflow)
            start_ns, end_ns = max(child.start_ns, parent.start_ns), min(child.end_ns, parent.end_ns)
            child.bounds = start_ns, max(start_ns, end_ns)
        stack.extend(reversed(parent.children))
    for root in roots:
        root.bounds = root.start_ns, root.end_ns
    for node in reversed(order):
        last = node.children[-1] if node.children else None
        node._behind = last._behind if last is not None else node._first + 1


def _settle_child(parent: Node, child: Node, overflow: Overflow) -> None:
    # What a producer's own service does below it, such as Celery's LPUSH to Redis, is part of sending.
    if parent.span.operation_class == OperationClass.PRODUCER and child.is_entry:
        child.awaited = False
        child.notes.append("runs asynchronously: its producer did not wait for it")
        return
    if child.start_ns >= parent.end_ns and child.end_ns > parent.end_ns:
        child.awaited = False
        child.notes.append(_CONTINUES + ": it began when its parent had ended")
        return
    if child.end_ns <= parent.start_ns and child.start_ns < parent.start_ns:
        child.awaited = False
        child.notes.append("ended before its parent began")
        return
    overflows, rate = id(child) in overflow.nodes, overflow.paths.get(id(child))
    if overflows if rate is None else not rate.awaited:
        # A parent that ended before its child cannot have waited for it: both ran on one clock, in one process.
        child.awaited = False
        usual = f": {rate} ended after their parents" if rate is not None else ""
        child.notes.append(
            f"{_CONTINUES}{usual or ': it ended after its parent'}" if overflows else f"not waited for{usual}"
        )
        return
    clipped = "its caller's path counts it up to there" if child.is_entry else "clipped"
    if child.end_ns > parent.end_ns:
        usual = f", as {rate} did" if overflows else ""
        child.notes.append(f"ended {(child.end_ns - parent.end_ns) / 1e6:.3f} ms after its parent{usual}; {clipped}")
        child.end_ns = child.end_ns if child.is_entry else parent.end_ns
    if child.start_ns < parent.start_ns:
        child.notes.append(f"began {(parent.start_ns - child.start_ns) / 1e6:.3f} ms before its parent; {clipped}")
        child.start_ns = child.start_ns if child.is_entry else parent.start_ns
