"""What arrives at the server itself, over the last minutes."""

from __future__ import annotations

from typing import Any

from analysis.wording import count_text
from app.charts import Figure
from app.charts.axes import epoch_ms, layout, time_axis
from app.measuring.recent import CountSeries

_SPANS = (("accepted", "stored", "own_code", ""), ("duplicates", "known already", "unaccounted", ""))
_REJECTED = ("rejected", "rejected", "failed_attempts", ".")
_REQUESTS = (
    ("refused", "requests asked to retry", "queue", "/"),
    ("failed", "requests failed", "blocked_loop", ""),
)


def ingest_figure(series: CountSeries) -> Figure:
    """Spans a second by what became of them; below it, where there are any, the requests that were not stored."""
    end_ns = series.start_ns[-1] + series.step_s * 1_000_000_000
    axis = time_axis(series.start_ns[0], end_ns)
    value_axis: dict[str, Any] = {
        "rangemode": "tozero",
        "showgrid": True,
        "zeroline": False,
        "nticks": 4,
        "automargin": True,
        "ticksuffix": " /s",
    }
    lower = any(series.total(name) for name, *_ in _REQUESTS)
    spans = [*_SPANS, _REJECTED] if series.total("rejected") else [*_SPANS]
    shown = [each for each in spans if each[0] == "accepted" or series.total(each[0])]
    data = [_bars(series, *each, unit="spans", axis="y") for each in shown]
    if lower:
        data += [_bars(series, *each, unit="requests", axis="y2") for each in _REQUESTS if series.total(each[0])]
        axes = {
            "xaxis": {**axis, "anchor": "y2"},
            "yaxis": {**value_axis, "domain": [0.42, 1]},
            "yaxis2": {**value_axis, "nticks": 3, "domain": [0, 0.28]},
        }
    else:
        axes = {"xaxis": axis, "yaxis": value_axis}
    return {
        "data": data,
        "layout": layout(
            300 if lower else 220, barmode="stack", bargap=0.1, showlegend=True, meta={"time_axis": True}, **axes
        ),
    }


def _bars(
    series: CountSeries, name: str, shown: str, colour: str, shape: str, *, unit: str, axis: str
) -> dict[str, Any]:
    counts = series.counts[name]
    middle_ns = series.step_s * 500_000_000
    return {
        "type": "bar",
        "name": shown,
        "x": [epoch_ms(start + middle_ns) for start in series.start_ns],
        "y": [round(count / series.step_s, 3) for count in counts],
        "text": [
            f"{shown}: {count_text(count)} {unit if unit not in shown else ''}".rstrip() + f" in {series.step_s} s"
            for count in counts
        ],
        "textposition": "none",
        "hoverinfo": "text",
        "yaxis": axis,
        **({"marker": {"pattern": {"shape": shape, "size": 6, "solidity": 0.25}}} if shape else {}),
        "meta": {"colour": colour},
    }
