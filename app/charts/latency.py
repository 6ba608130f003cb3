"""Latency over time: the heat map of all requests with the percentile lines on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from analysis.endpoint_reports import EndpointReport, HeatMap, LatencyChange, LatencySeries, Region
from analysis.wording import duration_text, quantile_name
from app.charts import Figure
from app.charts.axes import duration_axis, epoch_ms, layout, ms, time_axis


def latency_figure(report: EndpointReport, chosen: Region | None = None) -> Figure:
    """Heat map of duration over time with lines of p50, p95, p99; lines break where too few requests carry them.

    A chosen region is framed.
    """
    heat, series = report.heat_map, report.series
    lines = []
    if not report.withheld:
        lines = [
            _line(series, "p50", series.p50_ns, "dot", 1.5),
            _line(series, "p95", series.p95_ns, "dash", 1.5),
            _line(series, "p99", series.p99_ns, "solid", 2.5),
        ]
    if report.changes:
        lines.append(_changes(report, _shown_range(heat, series)))
    starts = series.start_ns or heat.start_ns or (0,)
    end_ns = starts[-1] + (series.bucket_ns or heat.bucket_ns or 1)
    if chosen is not None:
        lines.append(_frame(chosen, starts[0], end_ns, _shown_range(heat, series)))
    return {
        "data": [_heat(heat), *lines],
        "layout": layout(
            320,
            xaxis=time_axis(starts[0], end_ns),
            yaxis={**duration_axis(_shown_range(heat, series)), "automargin": True},
            meta={"log_axis": "yaxis", "time_axis": True},
        ),
    }


def _shown_range(heat: HeatMap, series: LatencySeries) -> list[int]:
    filled = [index for index, row in enumerate(heat.counts) if any(row)]
    edges = [heat.edges_ns[filled[0]], heat.edges_ns[filled[-1] + 1]] if filled else []
    return edges + [value for value in (*series.p50_ns, *series.p99_ns) if value is not None]


def _changes(report: EndpointReport, shown_ns: Sequence[int]) -> dict[str, Any]:
    """A vertical line where the level changed."""
    low, high = max(ms(min(shown_ns, default=1)), 1e-6), ms(max(shown_ns, default=1))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "change",
        "x": [x for change in report.changes for x in (epoch_ms(change.at_ns), epoch_ms(change.at_ns), None)],
        "y": [y for _ in report.changes for y in (low, high, None)],
        "text": [text for words in map(_change_words, report.changes) for text in (words, words, "")],
        "hoverinfo": "text",
        "connectgaps": False,
        "line": {"dash": "longdash", "width": 2},
        "meta": {"colour": "accent"},
    }


def _frame(chosen: Region, start_ns: int, end_ns: int, shown_ns: Sequence[int]) -> dict[str, Any]:
    """The outline of a region, as far as it is on the chart."""
    left, right = (epoch_ms(min(max(at, start_ns), end_ns)) for at in (chosen.from_ns, chosen.to_ns))
    lowest, highest = max(min(shown_ns, default=1), 1), max(max(shown_ns, default=1), 1)
    low, high = (max(ms(min(max(at, lowest), highest)), 1e-6) for at in (chosen.low_ns, chosen.high_ns))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "chosen",
        "x": [left, right, right, left, left],
        "y": [low, low, high, high, low],
        "hoverinfo": "skip",
        "line": {"width": 3},
        "meta": {"colour": "accent"},
    }


def _change_words(change: LatencyChange) -> str:
    values = f"from {duration_text(change.before_ns)} to {duration_text(change.after_ns)}"
    return f"{quantile_name(change.quantile)} {values}"


def _heat(heat: HeatMap) -> dict[str, Any]:
    ends = [heat.start_ns[-1] + heat.bucket_ns] if heat.start_ns else []
    return {
        "type": "heatmap",
        "name": "requests",
        "x": [epoch_ms(start) for start in (*heat.start_ns, *ends)],
        "y": [max(ms(edge), 1e-6) for edge in heat.edges_ns],
        # The eye reads the logarithm: one slow request must not vanish beside a thousand fast ones.
        "z": [[round(math.log10(count) + 0.3, 2) if count else None for count in row] for row in heat.counts],
        "customdata": [list(row) for row in heat.counts],
        "hovertemplate": "%{customdata} requests<extra></extra>",
        "showscale": False,
        "hoverongaps": False,
        "meta": {"colour": "heat"},
    }


def _line(series: LatencySeries, name: str, values: tuple[int | None, ...], dash: str, width: float) -> dict[str, Any]:
    middle = series.bucket_ns // 2
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [epoch_ms(start + middle) for start in series.start_ns],
        "y": [None if value is None else ms(value) for value in values],
        "text": [
            "" if value is None else f"{name} {duration_text(value)} · n = {count}"
            for value, count in zip(values, series.count, strict=True)
        ],
        "hoverinfo": "text",
        "connectgaps": False,
        "line": {"dash": dash, "width": width},
        "marker": {"size": 4},
        "meta": {"colour": "text"},
    }
