"""Small marks inside tables: sparklines, interval marks and share bars, as numbers for SVG attributes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.ledger import TIME_KINDS, Category, Slice
from analysis.quantiles import Quantile
from analysis.reports import EndpointRow

SPARK_WIDTH = 96
SPARK_HEIGHT = 20


@dataclass(frozen=True)
class Bar:
    """One part of a bar, in per cent of its width."""

    role: str
    """A category or kind of time: names the CSS class and the pattern."""
    x: float
    width: float
    name: str = ""


@dataclass(frozen=True)
class Spread:
    """p50, p95, p99 with their intervals on one logarithmic scale, in per cent of its width."""

    p50_x: float
    p95_x: float
    p99_x: float
    whiskers: tuple[tuple[float, float], ...]


def per_cent(value: float) -> float:
    """Two decimals: a hundredth of a per cent is a tenth of a pixel on a wide screen."""
    return round(min(max(100 * value, 0.0), 100.0), 2)


def sparkline(values: Sequence[int]) -> tuple[str, ...]:
    """Points of polylines in a box of SPARK_WIDTH by SPARK_HEIGHT, one a run of parts with requests (value above 0)."""
    top = max(values, default=0)
    if top == 0:
        return ()
    step = SPARK_WIDTH / max(len(values) - 1, 1)
    lines: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value == 0:
            lines.append([])
            continue
        lines[-1].append(f"{index * step:.1f},{SPARK_HEIGHT - 2 - (SPARK_HEIGHT - 4) * value / top:.1f}")
    # A run of one part would be an invisible line: draw it as a dash.
    drawn = [line if len(line) > 1 else _dash(line[0], step) for line in lines if line]
    return tuple(" ".join(line) for line in drawn)


def _dash(point: str, step: float) -> list[str]:
    x, y = point.split(",")
    start = max(float(x) - step / 3, 0)
    return [f"{start:.1f},{y}", f"{start + 2 * step / 3:.1f},{y}"]


def kind_bar(row: EndpointRow) -> tuple[Bar, ...]:
    """Work, wait and waste as shares of the critical path, the rest unknown; empty where nothing was sampled."""
    if row.work_share is None or row.wait_share is None or row.waste_share is None:
        return ()
    shares = [("work", row.work_share), ("wait", row.wait_share), ("waste", row.waste_share)]
    return _stacked([*shares, ("unknown", max(1.0 - sum(share for _, share in shares), 0.0))])


def slices_bar(slices: Iterable[Slice], duration_ns: int) -> tuple[Bar, ...]:
    """A request's ledger as one bar, in the order of the categories."""
    totals = dict.fromkeys(Category, 0)
    for part in slices:
        totals[part.category] += part.duration_ns
    return _stacked([(category.value, total / max(duration_ns, 1)) for category, total in totals.items()])


def kind_of(category: Category) -> str:
    """`work`, `between`, `wait`, `waste` or `unknown`."""
    return TIME_KINDS[category].value


def _stacked(shares: Sequence[tuple[str, float]]) -> tuple[Bar, ...]:
    bars = []
    x = 0.0
    for role, share in shares:
        if share > 0:
            bars.append(Bar(role, per_cent(x), per_cent(share)))
            x += share
    return tuple(bars)


def spreads(rows: Sequence[EndpointRow]) -> tuple[Spread | None, ...]:
    """A mark a row on a scale common to all rows; None where a row has no data."""
    known = [
        value
        for row in rows
        for value in (row.p50.low_ns, row.p50.value_ns, row.p99.value_ns, row.p99.high_ns)
        if value is not None and value > 0
    ]
    if not known:
        return tuple(None for _ in rows)
    low, high = math.log(min(known)), math.log(max(known))
    # Half a symbol of room at both ends.
    margin = max((high - low) * 0.06, 0.05)
    scale = _Scale(low - margin, high - low + 2 * margin)
    return tuple(_spread(row, scale) for row in rows)


@dataclass(frozen=True)
class _Scale:
    low: float
    length: float

    def at(self, value_ns: int) -> float:
        return per_cent((math.log(max(value_ns, 1)) - self.low) / self.length)


def _spread(row: EndpointRow, scale: _Scale) -> Spread | None:
    quantiles: list[Quantile] = [row.p50, row.p95, row.p99]
    values = [quantile.value_ns for quantile in quantiles]
    if any(value is None for value in values):
        return None
    whiskers = []
    for quantile in quantiles:
        if quantile.low_ns is not None and quantile.high_ns is not None:
            start = scale.at(quantile.low_ns)
            whiskers.append((start, round(max(scale.at(quantile.high_ns) - start, 0.5), 2)))
    p50_x, p95_x, p99_x = (scale.at(value or 0) for value in values)
    return Spread(p50_x, p95_x, p99_x, tuple(whiskers))
