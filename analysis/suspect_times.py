"""What requests spend where, call by call, so that two sets of requests can be held against each other.

The time of a call that its callee's spans do not cover is booked on the callee, not on the caller: what lies between
two services is more often the callee's queue or network than the caller's code. Where a caller's calls to most of its
callees grew alike, what they share is the caller, and that part is booked on it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.critical_path import critical_path
from analysis.node import Node
from analysis.semantics import OperationClass
from analysis.span import Kind

LEAST_Z, MOST_Z = -3.0, 30.0
"""One call that took a thousand standard deviations longer must not outweigh all others."""
NOISE_NS = 500_000
"""Added to every standard deviation: operations that hardly vary would else be conspicuous by microseconds."""

Operation = tuple[str, str]
"""Service, and endpoint or operation."""
Edge = tuple[str, str]
"""Caller and callee."""


class Stretch(NamedTuple):
    """Time in which requests waited for one span itself."""

    operation: Operation
    own_ns: int


class Call(NamedTuple):
    """A call of another service: the client's time that the callee's span does not cover, and the callee's own."""

    client: Operation
    callee: Operation
    gap_ns: int
    own_ns: int

    @property
    def edge(self) -> Edge:
        return self.client[0], self.callee[0]


@dataclass(frozen=True, eq=False)
class Times:
    """Of a set of requests."""

    requests: int
    stretches: tuple[Stretch, ...]
    calls: tuple[Call, ...]

    @property
    def total_ns(self) -> int:
        return sum(one.own_ns for one in self.stretches) + sum(call.gap_ns + call.own_ns for call in self.calls)


@dataclass(frozen=True)
class Change:
    """What changed in one service between two sets of requests."""

    z: float
    """Mean over its spans of how many standard deviations each took longer than usual, less the mean's error."""
    cost_ns: float
    """By how much a request became longer for it."""


def operation_of(node: Node) -> Operation:
    span = node.span
    return span.service, span.endpoint if node.is_entry else span.operation


def times_of(roots: Iterable[Node]) -> Times:
    """The time on the critical path of every span below the roots of some requests, 0 where nothing waited for it."""
    stretches: list[Stretch] = []
    calls: list[Call] = []
    requests = 0
    for root in roots:
        requests += 1
        own: dict[int, int] = defaultdict(int)
        for section in critical_path(root):
            own[id(section.node)] += section.duration_ns
        called: set[int] = set()
        for node in root.walk():
            if id(node) in called or node.driver_copy or node.span.operation_class == OperationClass.ASGI:
                continue
            callee = _only_callee(node)
            if callee is None:
                stretches.append(Stretch(operation_of(node), own[id(node)]))
                continue
            called.add(id(callee))
            stretches.append(Stretch(operation_of(node), 0))
            calls.append(Call(operation_of(node), operation_of(callee), own[id(node)], own[id(callee)]))
    return Times(requests, tuple(stretches), tuple(calls))


def _only_callee(node: Node) -> Node | None:
    """The entry span of another service that is all that is below this one.

    Also where clocks put it outside of its call, but not a consumer: its producer's time is sending.
    """
    if len(node.children) != 1:
        return None
    child = node.children[0]
    called = child.awaited or node.span.kind == Kind.CLIENT
    return child if called and child.is_entry and child.span.service != node.span.service else None


def changes(usual: Times, now: Times) -> dict[str, Change]:
    """By service of the requests now, against the usual ones. An operation that is new counts with all of its time."""
    answering = {call.client: call.callee for call in usual.calls}
    known = _spreads(
        [*_stretches(usual, answering), *((call.callee, call.gap_ns + call.own_ns) for call in usual.calls)]
    )
    shared_ns = _shared_by_calls(usual, now)
    deviations: dict[str, _Deviations] = defaultdict(_Deviations)
    costs: dict[str, float] = defaultdict(float)

    def add(operation: Operation, value_ns: float) -> None:
        spread = known.get(operation)
        costs[operation[0]] += value_ns - (spread.mean_ns if spread else 0)
        if spread is not None:
            deviations[operation[0]].add(spread.z(value_ns), 1)

    for operation, own_ns in _stretches(now, answering):
        add(operation, own_ns)
    for call in now.calls:
        caller = call.client[0]
        moved_ns = min(shared_ns[caller], call.gap_ns)
        add(call.callee, call.gap_ns + call.own_ns - moved_ns)
        if moved_ns > 0:
            spread = known.get(call.client, _Spread(0, 0))
            costs[caller] += moved_ns
            # The client's span counted already, with nothing.
            deviations[caller].add(spread.z(spread.mean_ns + moved_ns), 0)
    requests = max(now.requests, 1)
    return {service: Change(deviations[service].beyond_chance(), cost / requests) for service, cost in costs.items()}


@dataclass
class _Deviations:
    """Sums over the spans of one service."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, z: float, spans: int) -> None:
        self.count += spans
        self.total += z
        self.squares += z * z

    def beyond_chance(self) -> float:
        """The mean less its standard error: a handful of spans is easily one standard deviation off."""
        count = max(self.count, 1)
        mean = self.total / count
        return mean - math.sqrt(max(0.0, self.squares / count - mean * mean) / count)


class _Spread(NamedTuple):
    mean_ns: float
    deviation_ns: float

    def z(self, value_ns: float) -> float:
        return min(MOST_Z, max(LEAST_Z, (value_ns - self.mean_ns) / (self.deviation_ns + NOISE_NS)))


def _stretches(times: Times, answering: Mapping[Operation, Operation]) -> Iterator[tuple[Operation, int]]:
    """What was no answered call, by operation; a call that nobody answered counts for whom it usually reaches."""
    for stretch in times.stretches:
        callee = answering.get(stretch.operation)
        if callee is not None and stretch.own_ns:
            yield stretch.operation, 0
            yield callee, stretch.own_ns
        else:
            yield stretch.operation, stretch.own_ns


def _spreads(values: Iterable[tuple[Operation, int]]) -> dict[Operation, _Spread]:
    sums: dict[Operation, list[int]] = defaultdict(lambda: [0, 0, 0])
    for operation, value in values:
        of = sums[operation]
        of[0] += 1
        of[1] += value
        of[2] += value * value
    return {
        operation: _Spread(total / count, math.sqrt(max(0, count * squares - total * total)) / count)
        for operation, (count, total, squares) in sums.items()
    }


def _shared_by_calls(usual: Times, now: Times) -> Mapping[str, float]:
    """By caller: nanoseconds by which its calls grew whomever they call, the lower median over its callees.

    With one callee nothing tells the two apart.
    """
    before, after = _mean_gaps(usual.calls), _mean_gaps(now.calls)
    grown: dict[str, list[float]] = defaultdict(list)
    for (caller, callee), gap_ns in after.items():
        if (caller, callee) in before:
            grown[caller].append(max(0.0, gap_ns - before[caller, callee]))
    shared: dict[str, float] = defaultdict(float)
    for caller, growths in grown.items():
        if len(growths) > 1:
            shared[caller] = sorted(growths)[(len(growths) - 1) // 2]
    return shared


def _mean_gaps(calls: Sequence[Call]) -> dict[Edge, float]:
    sums: dict[Edge, list[int]] = defaultdict(lambda: [0, 0])
    for call in calls:
        of = sums[call.edge]
        of[0] += 1
        of[1] += call.gap_ns
    return {edge: total / count for edge, (count, total) in sums.items()}
