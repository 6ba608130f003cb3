"""The critical paths of many requests laid over each other: what they wait for, call by call, normal against slow.

Method: sections of each request's critical path, summed by call path (Google's critical path tracing, ACM Queue 2022,
shows the same as a weighted flame graph) and divided by the number of requests, so that both add up to a mean request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from analysis.accounting import BookedRequest
from analysis.endpoint_reports import PathStep
from analysis.ledger import Category
from analysis.node import Node

MIN_SHARE = 0.01
"""Steps below 1 % of the mean request of both cohorts are not told apart from the step above them."""
MAX_DEPTH = 24

_Step = tuple[str, str]


@dataclass(eq=False)
class _Path:
    """One call path: a span's service and operation below those of its callers."""

    step: _Step
    below: dict[_Step, _Path] = field(default_factory=dict)
    own_ns: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})
    """Mean time on the path in the step itself, of the tail (True) and of the body."""
    by_category: dict[Category, float] = field(default_factory=lambda: defaultdict(float))
    begins_sum_ns: float = 0.0
    spans: int = 0

    def child(self, step: _Step) -> _Path:
        if step not in self.below:
            self.below[step] = _Path(step)
        return self.below[step]

    @property
    def begins_ns(self) -> float:
        return self.begins_sum_ns / max(self.spans, 1)


def path_profile(tail: Sequence[BookedRequest], body: Sequence[BookedRequest]) -> tuple[PathStep, ...]:
    """Every call path that takes at least 1 % of a mean request, callers before what they call, in order of time."""
    top = _Path(("", ""))
    for cohort, slow in ((tail, True), (body, False)):
        stand_for = sum(request.adjusted_count for request in cohort)
        for request in cohort:
            _add(top, request, slow, request.adjusted_count / stand_for)
    totals = _totals(top)
    least = {slow: MIN_SHARE * totals[id(top)][slow] for slow in (True, False)}
    steps: list[PathStep] = []
    stack = [(path, 0, -1) for path in _in_time(top)]
    while stack:
        path, depth, parent = stack.pop()
        total = totals[id(path)]
        if depth >= MAX_DEPTH or not any(total[slow] > 0 and total[slow] >= least[slow] for slow in (True, False)):
            continue
        service, name = path.step
        steps.append(
            PathStep(
                service=service,
                name=name,
                category=max(path.by_category, key=lambda one: path.by_category[one], default=Category.OWN_CODE),
                depth=depth,
                parent=parent,
                body_ns=round(total[False]),
                tail_ns=round(total[True]),
                body_own_ns=round(path.own_ns[False]),
                tail_own_ns=round(path.own_ns[True]),
            )
        )
        place = len(steps) - 1
        stack.extend((below, depth + 1, place) for below in _in_time(path))
    return tuple(steps)


def _in_time(path: _Path) -> list[_Path]:
    """What is called, last first: the order of a stack."""
    return sorted(path.below.values(), key=lambda one: (one.begins_ns, one.step), reverse=True)


def _add(top: _Path, request: BookedRequest, slow: bool, share: float) -> None:
    paths: dict[int, _Path] = {}
    for booking in request.booked:
        path = _path_of(top, booking.node, request.root, paths)
        path.own_ns[slow] += booking.duration_ns * share
        path.by_category[booking.category] += booking.duration_ns * share
    for node in request.root.walk():
        if id(node) in paths:
            path = paths[id(node)]
            path.begins_sum_ns += node.start_ns - request.root.start_ns
            path.spans += 1


def _path_of(top: _Path, node: Node, root: Node, paths: dict[int, _Path]) -> _Path:
    chain = []
    at: Node | None = node
    while at is not None and id(at) not in paths:
        chain.append(at)
        at = None if at is root else at.parent
    path = paths[id(at)] if at is not None else top
    for one in reversed(chain):
        path = path.child((one.span.service, step_name(one)))
        paths[id(one)] = path
    return path


def step_name(node: Node) -> str:
    """Endpoint or operation; of a call its callee's, because addresses differ between replicas."""
    if node.is_entry:
        return node.span.endpoint
    return f"→ {node.called}" if any(child.is_entry for child in node.children) else node.span.operation


def _totals(top: _Path) -> dict[int, dict[bool, float]]:
    """Mean time of each path with all below it, by cohort."""
    order = [top]
    for path in order:
        order.extend(path.below.values())
    totals: dict[int, dict[bool, float]] = {}
    for path in reversed(order):
        totals[id(path)] = {
            slow: path.own_ns[slow] + sum(totals[id(below)][slow] for below in path.below.values())
            for slow in (True, False)
        }
    return totals
