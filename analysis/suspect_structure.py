"""Which services break requests off: where calls end that went on before, and where failures begin.

A service whose code fails is often no slower. What shows is that after a call to it the calls that usually follow are
missing, in every caller alike; or that its own calls are; or that a span failed below which nothing failed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from analysis.node import Node
from analysis.semantics import OperationClass
from analysis.suspect_times import Operation, operation_of

_NOISE_DEVIATIONS = 2.0


class _Step(NamedTuple):
    """One child of a span: the last one says where its calls ended."""

    operation: Operation
    callee: str
    """The service that it calls; empty where it stays in its own."""


@dataclass(eq=False)
class Structure:
    """Of a set of requests."""

    ends: dict[Operation, Counter[_Step | None]] = field(default_factory=lambda: defaultdict(Counter))
    """How often the spans of an operation ended after which child; None: they had none."""
    visits: Counter[str] = field(default_factory=Counter)
    """Requests to each service."""
    callers: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    callees: dict[Operation, str] = field(default_factory=dict)
    """The service that answers the calls of an operation, where it did so once."""
    failures: Counter[Operation] = field(default_factory=Counter)
    """Spans that failed though nothing below them did."""


@dataclass(frozen=True)
class Breaks:
    """What one service breaks, as shares of the requests to it."""

    stops: float
    fails: float


def structure_of(roots: Iterable[Node]) -> Structure:
    """How the requests below some roots are built."""
    found = Structure()
    for root in roots:
        for node in root.walk():
            if node.driver_copy or node.span.operation_class == OperationClass.ASGI:
                continue
            _add(found, node)
    return found


def _add(found: Structure, node: Node) -> None:
    operation, service = operation_of(node), node.span.service
    if node.is_entry:
        found.visits[service] += 1
    last: _Step | None = None
    failed_below = False
    for child in node.children:
        if not child.awaited:
            continue
        callee = child.span.service
        if callee == service and (callee := _callee(child)):
            found.callees[operation_of(child)] = callee
        if callee:
            found.callers[callee].add(service)
        last = _Step(operation_of(child), callee)
        failed_below = failed_below or child.span.failed
    found.ends[operation][last] += 1
    if node.span.failed and not failed_below:
        found.failures[operation] += 1


def _callee(node: Node) -> str:
    return next(
        (child.span.service for child in node.children if child.is_entry and child.span.service != node.span.service),
        "",
    )


def breaks(usual: Structure, now: Structure) -> dict[str, Breaks]:
    """By service of the requests now: stops and failures that are new against the usual ones."""
    excess = _excess_ends(usual, now)
    stopped: dict[Operation, float] = defaultdict(float)
    for (operation, _), count in excess.items():
        stopped[operation] += count
    own: dict[str, float] = defaultdict(float)
    blamed: dict[str, float] = defaultdict(float)
    changed: dict[str, float] = defaultdict(float)
    reached = _reached(usual, now)
    for (operation, last), count in excess.items():
        service = operation[0]
        unanswered = usual.callees.get(operation, "") if last is None else ""
        if unanswered or (last is not None and last.callee):
            blamed[unanswered or (last.callee if last else "")] += count
        elif last is None or not stopped.get(last.operation):
            # A step within the service that is itself broken off has its own line.
            own[service] += count
        changed[service] = max(changed[service], count / max(reached[service], 1))
    failed = _excess_failures(usual, now)
    found = {}
    for service, requests in reached.items():
        # Other input makes a service work otherwise: what its callers changed may be all the reason.
        others = [min(1.0, changed[caller]) for caller in now.callers[service] if caller != service]
        its_own = own[service] * (1 - max(others, default=0.0))
        stops, fails = (its_own + blamed[service]) / max(requests, 1), failed[service] / max(requests, 1)
        found[service] = Breaks(min(1.0, stops), min(1.0, fails))
    return found


def _reached(usual: Structure, now: Structure) -> Mapping[str, int]:
    """Requests to each service, those that it did not answer too where their callee is known."""
    sent: Counter[str] = Counter()
    for operation, callee in usual.callees.items():
        sent[callee] += now.ends[operation].total() if operation in now.ends else 0
    return {service: max(now.visits[service], sent[service]) for service in now.visits | sent}


def _excess_ends(usual: Structure, now: Structure) -> dict[tuple[Operation, _Step | None], float]:
    """How many spans end after a child more often than usual, beyond chance."""
    excess = {}
    for operation, ends in now.ends.items():
        before = usual.ends.get(operation)
        if before is None:
            continue
        count, usual_count = ends.total(), before.total()
        for last, ending in ends.items():
            share = _beyond_chance(ending, count, before[last], usual_count)
            if share > 0:
                excess[operation, last] = share * count
    return excess


def _excess_failures(usual: Structure, now: Structure) -> Mapping[str, float]:
    """Failures by the service where they begin; a call that nobody answered counts for whom it usually reaches."""
    excess: dict[str, float] = defaultdict(float)
    for operation, failures in now.failures.items():
        count = now.ends[operation].total()
        before = usual.ends.get(operation, Counter())
        share = _beyond_chance(failures, count, usual.failures[operation], before.total())
        if share > 0:
            excess[usual.callees.get(operation, operation[0])] += share * count
    return excess


def _beyond_chance(now: int, of_now: int, usual: int, of_usual: int) -> float:
    """How much the share now is above the usual one, less two standard deviations of the difference."""
    if not of_now or not of_usual:
        return now / of_now if of_now else 0.0
    pooled = (now + usual) / (of_now + of_usual)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / of_now + 1 / of_usual))
    return now / of_now - usual / of_usual - _NOISE_DEVIATIONS * deviation
