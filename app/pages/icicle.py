"""The aggregated critical path as rectangles: as wide as its time, what is called below its caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.endpoint_reports import PathStep
from app.pages.marks import per_cent

ROW = 24


@dataclass(frozen=True)
class Cell:
    """One call path; x and width in per cent, y in pixels."""

    step: PathStep
    x: float
    width: float
    y: int


@dataclass(frozen=True)
class Icicle:
    """All cells of one cohort's mean request."""

    cells: tuple[Cell, ...]
    height: int
    total_ns: int


def icicles(steps: Sequence[PathStep]) -> tuple[Icicle, Icicle]:
    """Normal and slow requests on one scale of time: the longer of the two fills the width."""
    longest = max((max(step.body_ns, step.tail_ns) for step in steps if step.depth == 0), default=0)
    return _icicle(steps, "body_ns", longest), _icicle(steps, "tail_ns", longest)


def _icicle(steps: Sequence[PathStep], size: str, longest_ns: int) -> Icicle:
    cells: list[Cell] = []
    # Where the next step below each begins, in nanoseconds; the last is that of the top.
    free = [0] * (len(steps) + 1)
    depth = 0
    for place, step in enumerate(steps):
        length_ns: int = getattr(step, size)
        begin_ns = free[step.parent] if step.parent >= 0 else free[-1]
        free[step.parent if step.parent >= 0 else -1] = begin_ns + length_ns
        free[place] = begin_ns
        if length_ns and longest_ns:
            cells.append(
                Cell(step, per_cent(begin_ns / longest_ns), per_cent(length_ns / longest_ns), step.depth * ROW)
            )
            depth = max(depth, step.depth + 1)
    return Icicle(tuple(cells), depth * ROW, sum(getattr(step, size) for step in steps if step.depth == 0))
