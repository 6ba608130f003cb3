"""A trace as rows of HTML: which spans are shown, and where their bars stand on the common axis of time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from analysis.ledger import TIME_KINDS, Category, TimeKind
from analysis.trace_reports import TraceReport, TraceSpanRow
from analysis.wording import count_text, duration_text
from app.charts.categories import NAMES
from app.links import span_text
from app.pages.marks import Bar, per_cent

FIRST_ROWS = 2_000
"""Rows shown before the reader asks for all."""
ALL_ROWS = 100_000
FOLD_FROM = 12
"""Equal leaves under one parent from which on they are folded; the first `FOLD_KEEP` stay."""
FOLD_KEEP = 3
_INDENTS = 24


@dataclass(frozen=True)
class WaterfallRow:
    """One line: a span, or several equal siblings folded into one."""

    span: TraceSpanRow
    hex_id: str
    indent: int
    bars: tuple[Bar, ...]
    """The whole span, pale; more than one where siblings are folded."""
    critical: tuple[Bar, ...]
    pauses: tuple[Bar, ...]
    """Backoff before this attempt."""
    patterned: bool
    label_x: float
    folded: int
    """How many more siblings this line stands for, 0 for an ordinary one."""
    text: str
    """What the bar shows, for those who cannot see it."""


@dataclass(frozen=True)
class Waterfall:
    rows: tuple[WaterfallRow, ...]
    ticks: tuple[tuple[float, str], ...]
    shown: int
    """Spans that the rows stand for."""
    total: int
    cut: bool
    folded: bool


def waterfall(report: TraceReport, all_rows: bool, selected: int | None) -> Waterfall:
    """At most FIRST_ROWS lines unless all_rows; folding never hides the selected span or a failed one."""
    scale = _Scale.of(report)
    pauses = _pauses(report.rows)
    groups = [[row] for row in report.rows] if all_rows else _folded(report.rows, selected)
    kept = groups if all_rows else _cut(groups, selected)
    rows = tuple(_row(group, scale, pauses.get(group[0].span_id)) for group in kept)
    return Waterfall(
        rows,
        scale.ticks(),
        sum(len(group) for group in kept),
        report.span_count,
        len(kept) < len(groups),
        any(len(group) > 1 for group in kept),
    )


def _cut(groups: list[list[TraceSpanRow]], selected: int | None) -> list[list[TraceSpanRow]]:
    kept = groups[:FIRST_ROWS]
    if selected is not None and not any(row.span_id == selected for group in kept for row in group):
        kept += [group for group in groups[FIRST_ROWS:] if any(row.span_id == selected for row in group)][:1]
    return kept


def _folded(rows: Sequence[TraceSpanRow], selected: int | None) -> list[list[TraceSpanRow]]:
    """Runs of equal leaves under one parent, all but the first few as one group each."""
    groups: list[list[TraceSpanRow]] = []
    index = 0
    while index < len(rows):
        end = index + 1
        while end < len(rows) and _foldable(rows[index], rows[end], selected):
            end += 1
        keep = FOLD_KEEP if end - index >= FOLD_FROM else end - index
        groups += [[row] for row in rows[index : index + keep]]
        if index + keep < end:
            groups.append(list(rows[index + keep : end]))
        index = end
    return groups


def _foldable(first: TraceSpanRow, row: TraceSpanRow, selected: int | None) -> bool:
    return (
        (row.parent_span_id, row.depth, row.service, row.name, row.operation)
        == (first.parent_span_id, first.depth, first.service, first.name, first.operation)
        and not (row.child_count or first.child_count or row.failed or first.failed or row.notes)
        and selected not in (row.span_id, first.span_id)
    )


def _pauses(rows: Sequence[TraceSpanRow]) -> dict[int, tuple[int, int]]:
    """By span id of an attempt after the first: when the one before it ended and this one began."""
    attempts: dict[tuple[int, str, str], list[TraceSpanRow]] = defaultdict(list)
    for row in rows:
        if row.attempt:
            attempts[row.parent_span_id, row.service, row.operation or row.name].append(row)
    pauses = {}
    for siblings in attempts.values():
        siblings.sort(key=lambda row: (row.start_ns, row.attempt))
        for before, row in pairwise(siblings):
            end_ns = before.start_ns + before.duration_ns
            if row.attempt > 1 and end_ns < row.start_ns:
                pauses[row.span_id] = (end_ns, row.start_ns)
    return pauses


@dataclass(frozen=True)
class _Scale:
    start_ns: int
    length_ns: int

    @classmethod
    def of(cls, report: TraceReport) -> _Scale:
        start_ns = min((row.start_ns for row in report.rows), default=report.start_ns)
        start_ns = min(start_ns, report.start_ns)
        end_ns = max((row.start_ns + row.duration_ns for row in report.rows), default=start_ns)
        return cls(start_ns, max(end_ns - start_ns, report.duration_ns, 1))

    def bar(self, role: str, start_ns: int, end_ns: int, name: str = "") -> Bar:
        x = per_cent((start_ns - self.start_ns) / self.length_ns)
        # At least 0.15 %, or a span of microseconds in a trace of seconds would not show at all.
        width = max(per_cent((end_ns - start_ns) / self.length_ns), 0.15)
        return Bar(role, min(x, 99.85), width, name)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        return tuple((25.0 * part, duration_text(self.length_ns * part // 4)) for part in range(5))


def _row(group: list[TraceSpanRow], scale: _Scale, pause: tuple[int, int] | None) -> WaterfallRow:
    first = group[0]
    role = first.category.value
    bars = _merged(group, scale) if len(group) > 1 else (_whole(first, scale),)
    critical = tuple(scale.bar(role, start, end) for row in group for start, end in row.critical)
    shown_pause = (scale.bar("backoff", *pause, f"backoff {duration_text(pause[1] - pause[0])}"),) if pause else ()
    return WaterfallRow(
        first,
        span_text(first.span_id),
        min(first.depth, _INDENTS),
        bars,
        critical,
        shown_pause,
        TIME_KINDS[Category(role)] in (TimeKind.WAIT, TimeKind.WASTE),
        round(min(bars[0].x, 88.0), 2),
        len(group) if len(group) > 1 else 0,
        _text(group),
    )


def _whole(row: TraceSpanRow, scale: _Scale) -> Bar:
    return scale.bar(row.category.value, row.start_ns, row.start_ns + row.duration_ns)


def _merged(group: list[TraceSpanRow], scale: _Scale) -> tuple[Bar, ...]:
    """Bars that touch on the screen drawn as one: a thousand siblings are not a thousand rectangles."""
    merged: list[Bar] = []
    for row in sorted(group, key=lambda row: row.start_ns):
        bar = _whole(row, scale)
        if merged and bar.x <= merged[-1].x + merged[-1].width + 0.2:
            last = merged[-1]
            width = max(last.width, round(bar.x + bar.width - last.x, 2))
            merged[-1] = Bar(last.role, last.x, width)
        else:
            merged.append(bar)
    return tuple(merged)


def _text(group: list[TraceSpanRow]) -> str:
    first = group[0]
    if len(group) > 1:
        total = sum(row.duration_ns for row in group)
        return f"{count_text(len(group))} more of these, {duration_text(total)} together"
    critical = f", {duration_text(first.critical_ns)} of it on the critical path" if first.critical_ns else ""
    return f"{NAMES[first.category]}, {duration_text(first.duration_ns)}{critical}"
