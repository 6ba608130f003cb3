"""What a request would have taken with a fix applied: its tree re-timed, everything that waited moves up.

Method: work that began after another child of the same parent had ended is taken to depend on it (happens-before, as
CRISP's retimer learns it, here within the one trace), and keeps the distance to whatever it then waited for longest.
So A → max(B, C, D) → E re-times exactly. Without an edit every time comes out as it went in.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from analysis.critical_path import OVERLAP_TOLERANCE_SHARE
from analysis.node import Node


@dataclass(frozen=True)
class Edit:
    """A fix as a change of one trace; keys are span ids. Edits of several fixes can be joined with `|`."""

    durations_ns: Mapping[int, int] = field(default_factory=dict)
    """New duration of a span, whatever is below it; never longer than it was."""
    starts_with: Mapping[int, int] = field(default_factory=dict)
    """A span begins when the other one does, instead of after it."""
    no_gap_before: Set[int] = frozenset()
    """Spans that follow at once what they waited for."""

    def __or__(self, other: Edit) -> Edit:
        shortest = dict(self.durations_ns)
        for span_id, duration_ns in other.durations_ns.items():
            shortest[span_id] = min(duration_ns, shortest.get(span_id, duration_ns))
        return Edit(shortest, {**self.starts_with, **other.starts_with}, self.no_gap_before | other.no_gap_before)

    @property
    def is_empty(self) -> bool:
        return not (self.durations_ns or self.starts_with or self.no_gap_before)


def retimed_duration_ns(root: Node, edit: Edit) -> int:
    """Duration of the request at `root` with the edit applied."""
    return retimed_durations(root, edit)[id(root)]


def retimed_durations(root: Node, edit: Edit) -> dict[int, int]:
    """New durations by `id(node)` of the root and every awaited node below it."""
    order = []
    stack = [root]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(node.waited_for())
    durations: dict[int, int] = {}
    for node in reversed(order):
        duration_ns = _duration(node, edit, durations)
        wanted_ns = edit.durations_ns.get(node.span.span_id)
        durations[id(node)] = duration_ns if wanted_ns is None else min(wanted_ns, node.duration_ns)
    return durations


def _duration(parent: Node, edit: Edit, durations: Mapping[int, int]) -> int:
    children = sorted(parent.waited_for(), key=lambda child: child.bounds)
    if not children:
        return parent.duration_ns
    tolerance_ns = int(OVERLAP_TOLERANCE_SHARE * parent.duration_ns)
    begun_ns: dict[int, int] = {}
    running: list[tuple[int, int, int]] = []
    ended_ns = new_ended_ns = parent.start_ns
    for position, child in enumerate(children):
        old_start_ns, old_end_ns = child.bounds
        while running and running[0][0] <= old_start_ns + tolerance_ns:
            done_ns, _, new_done_ns = heapq.heappop(running)
            ended_ns = max(ended_ns, done_ns)
            new_ended_ns = max(new_ended_ns, new_done_ns)
        gap_ns = old_start_ns - ended_ns
        if child.span.span_id in edit.no_gap_before:
            gap_ns = min(gap_ns, 0)
        start_ns = max(parent.start_ns, min(old_start_ns, new_ended_ns + gap_ns))
        leader = edit.starts_with.get(child.span.span_id)
        if leader is not None and leader in begun_ns:
            start_ns = min(start_ns, begun_ns[leader])
        begun_ns[child.span.span_id] = start_ns
        # What the parent's end cut off of a callee stays cut off: the callee's new end counts up to the old one.
        new_end_ns = min(old_end_ns, child.start_ns + (start_ns - old_start_ns) + durations[id(child)])
        heapq.heappush(running, (old_end_ns, position, max(start_ns, new_end_ns)))
    tail_from_ns = max(ended_ns, *(end for end, _, _ in running)) if running else ended_ns
    new_tail_from_ns = max(new_ended_ns, *(new for _, _, new in running)) if running else new_ended_ns
    return max(0, new_tail_from_ns + (parent.end_ns - tail_from_ns) - parent.start_ns)
