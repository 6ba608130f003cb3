"""Which spans an answer waited for: the critical path of one request as sections that add up to its duration.

Method: last finishing child, walked backwards from the end (Jaeger's critical path; CRISP, USENIX ATC 2022), with two
corrections: a child that ends exactly where the next begins counts as before it, and siblings may overlap by up to 1 %
of their parent (CRISP's tolerance) before they count as parallel.
"""

from __future__ import annotations

from typing import NamedTuple

from analysis.node import Node

OVERLAP_TOLERANCE_SHARE = 0.01


class Section(NamedTuple):
    """A stretch of time in which the request waited for the node itself, not for a child of it."""

    node: Node
    start_ns: int
    end_ns: int

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


class _Frame:
    __slots__ = ("children", "cursor_ns", "limit_ns", "node", "start_ns", "tolerance_ns")

    def __init__(self, node: Node, start_ns: int, end_ns: int) -> None:
        self.node = node
        self.start_ns = start_ns
        self.cursor_ns = end_ns
        # Children may end as late as the node itself, even where its caller's path cuts the node short.
        self.limit_ns = node.end_ns
        self.tolerance_ns = int(OVERLAP_TOLERANCE_SHARE * node.duration_ns)
        self.children = sorted(node.waited_for(), key=_finish)


def _finish(child: Node) -> tuple[int, int, int]:
    start_ns, end_ns = child.bounds
    return end_ns, start_ns, child.span.span_id


def critical_path(root: Node) -> list[Section]:
    """Disjoint sections in time order whose durations sum to the root's; zero-length sections are left out."""
    sections: list[Section] = []
    stack = [_Frame(root, root.start_ns, root.end_ns)]
    while stack:
        frame = stack[-1]
        child = _last_finishing(frame)
        if child is None:
            _emit(sections, frame.node, frame.start_ns, frame.cursor_ns)
            stack.pop()
            if stack:
                stack[-1].cursor_ns = stack[-1].limit_ns = frame.start_ns
            continue
        start_ns, end_ns = child.bounds
        start_ns, end_ns = max(start_ns, frame.start_ns), min(end_ns, frame.cursor_ns)
        _emit(sections, frame.node, end_ns, frame.cursor_ns)
        frame.cursor_ns = end_ns
        if child.children:
            stack.append(_Frame(child, start_ns, end_ns))
        else:
            # Two of three spans have nothing below them.
            _emit(sections, child, start_ns, end_ns)
            frame.cursor_ns = frame.limit_ns = start_ns
    sections.reverse()
    return sections


def _last_finishing(frame: _Frame) -> Node | None:
    while frame.children:
        child = frame.children.pop()
        start_ns, end_ns = child.bounds
        ends_in_time = end_ns <= frame.limit_ns + frame.tolerance_ns
        if ends_in_time and start_ns < frame.cursor_ns and min(end_ns, frame.cursor_ns) > frame.start_ns:
            return child
    return None


def _emit(sections: list[Section], node: Node, start_ns: int, end_ns: int) -> None:
    if end_ns > start_ns:
        sections.append(Section(node, start_ns, end_ns))
