"""The map of services: who calls whom, left to right, as numbers for SVG attributes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.reports import ServiceEdge
from analysis.wording import count_text, duration_text, share_text

MAX_NODES = 24
"""More boxes than this are a knot: the table says it better."""
_BOX_WIDTH, _BOX_HEIGHT = 168, 32
_COLUMN, _ROW, _MARGIN, _ARC = 300, 64, 12, 34
_LABEL_CHARACTERS = 22
_FAILING_SHARE = 0.01


@dataclass(frozen=True)
class MapNode:
    name: str
    label: str
    """The name, shortened to fit its box."""
    x: float
    y: float
    text_x: float
    text_y: float


@dataclass(frozen=True)
class MapEdge:
    path: str
    width: float
    failing: bool
    """At least one call in a hundred fails."""
    label: str
    label_x: float
    label_y: float
    text: str


@dataclass(frozen=True)
class ServiceMap:
    nodes: tuple[MapNode, ...]
    edges: tuple[MapEdge, ...]
    width: int
    height: int
    box_width: int = _BOX_WIDTH
    box_height: int = _BOX_HEIGHT


def service_map(edges: Sequence[ServiceEdge]) -> ServiceMap | None:
    """Callers to the left of what they call; None where there is nothing to draw or too much of it."""
    drawn = [edge for edge in edges if edge.caller and edge.callee and edge.caller != edge.callee]
    columns = _columns(drawn)
    if not drawn or len(columns) > MAX_NODES:
        return None
    rows: dict[int, list[str]] = defaultdict(list)
    for name, column in columns.items():
        rows[column].append(name)
    tallest = max(len(names) for names in rows.values())
    places = {
        name: (_MARGIN + column * _COLUMN, _ARC + (index + (tallest - len(names)) / 2) * _ROW)
        for column, names in rows.items()
        for index, name in enumerate(names)
    }
    most = max(edge.calls for edge in drawn)
    return ServiceMap(
        tuple(_node(name, *place) for name, place in places.items()),
        tuple(_edge(edge, places[edge.caller], places[edge.callee], most) for edge in drawn),
        2 * _MARGIN + max(columns.values()) * _COLUMN + _BOX_WIDTH,
        2 * _ARC + (tallest - 1) * _ROW + _BOX_HEIGHT,
    )


def _columns(edges: Sequence[ServiceEdge]) -> dict[str, int]:
    """The longest way from the services that nobody calls; within a circle of calls the shortest."""
    callees: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        callees[edge.caller].append(edge.callee)
    called = {edge.callee for edge in edges}
    names = list(dict.fromkeys(name for edge in edges for name in (edge.caller, edge.callee)))
    columns: dict[str, int] = {}
    # Where all call each other in a circle, the first of the busiest edge begins.
    for start in [*(name for name in names if name not in called), *names]:
        if start in columns:
            continue
        columns[start] = 0
        waiting = [start]
        while waiting:
            caller = waiting.pop(0)
            for callee in callees[caller]:
                if callee not in columns:
                    columns[callee] = columns[caller] + 1
                    waiting.append(callee)
    straight = [edge for edge in edges if edge.caller not in _reached(edge.callee, callees)]
    for _ in columns:
        for edge in straight:
            columns[edge.callee] = max(columns[edge.callee], columns[edge.caller] + 1)
    return columns


def _reached(start: str, callees: Mapping[str, Sequence[str]]) -> set[str]:
    """Everything that is called from there, itself included."""
    reached, waiting = {start}, [start]
    while waiting:
        new = set(callees.get(waiting.pop(), ())) - reached
        reached |= new
        waiting += new
    return reached


def _node(name: str, x: float, y: float) -> MapNode:
    label = name if len(name) <= _LABEL_CHARACTERS else f"{name[: _LABEL_CHARACTERS - 1]}…"
    return MapNode(name, label, x, y, x + _BOX_WIDTH / 2, y + _BOX_HEIGHT / 2 + 4)


def _edge(edge: ServiceEdge, caller: tuple[float, float], callee: tuple[float, float], most: int) -> MapEdge:
    x1, y1 = caller[0] + _BOX_WIDTH, caller[1] + _BOX_HEIGHT / 2
    x2, y2 = callee[0], callee[1] + _BOX_HEIGHT / 2
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    path = f"M{x1:g} {y1:g} C{middle_x:g} {y1:g} {middle_x:g} {y2:g} {x2:g} {y2:g}"
    if not 0 < x2 - x1 < _COLUMN:
        # Over a column: above the boxes between. Backwards or within a column: below. So that no box hides it.
        over = x2 > x1
        x1, x2 = caller[0] + _BOX_WIDTH / 2, callee[0] + _BOX_WIDTH / 2
        y1, y2 = caller[1] + (0 if over else _BOX_HEIGHT), callee[1] + (0 if over else _BOX_HEIGHT)
        bend = min(y1, y2) - _ARC if over else max(y1, y2) + _ARC
        path = f"M{x1:g} {y1:g} C{x1:g} {bend:g} {x2:g} {bend:g} {x2:g} {y2:g}"
        # Nearer to the caller, on the curve at a third of it: in the middle stand the labels of the way there.
        middle_x = x1 + 0.26 * (x2 - x1)
        middle_y = 0.3 * y1 + 0.04 * y2 + 0.66 * bend + 6
    failing = edge.errors >= max(_FAILING_SHARE * edge.calls, 1)
    failed = f", {share_text(edge.errors / edge.calls)} failed" if edge.errors and edge.calls else ""
    p95 = duration_text(edge.p95_ns)
    return MapEdge(
        path,
        # As wide as the traffic, by its logarithm: 10 calls must show beside 10,000.
        round(1.5 + 5 * math.log1p(edge.calls) / math.log1p(max(most, 1)), 1),
        failing,
        p95 + failed,
        middle_x,
        middle_y - 6,
        f"{edge.caller} → {edge.callee}: {count_text(edge.calls)} calls, p95 {p95}{failed}",
    )
