"""Where the time goes: body against tail, category by category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.endpoint_reports import LedgerRow
from analysis.wording import duration_text, interval_text
from app.charts import Figure
from app.charts.axes import duration_axis, label, layout, ms
from app.charts.categories import NAMES, pattern


def ledger_figure(category_rows: Sequence[LedgerRow], normal: str, slow: str) -> Figure:
    """Two stacked bars, body and tail by their names: the mean time a request spends in each category."""
    rows = [row for row in category_rows if row.body_mean_ns or row.tail_mean_ns]
    rows.sort(key=lambda row: list(NAMES).index(row.category))
    longest = max((sum(row.tail_mean_ns for row in rows), sum(row.body_mean_ns for row in rows)), default=0)
    return {
        "data": [_part(row, normal, slow) for row in rows],
        "layout": layout(
            # Room for the legend's lines on a phone.
            210,
            barmode="stack",
            bargap=0.3,
            xaxis={**duration_axis([longest], log=False), "automargin": True},
            yaxis={"type": "category", "automargin": True, "autorange": "reversed", "showgrid": False},
            showlegend=True,
        ),
    }


def difference_figure(ledger: Sequence[LedgerRow], count: int = 8) -> Figure:
    """What a slow request spends more time in than a normal one: a bar a label with its 95 % interval."""
    rows = [row for row in ledger if row.difference_ns > 0][:count]
    names = [label(row.label) or NAMES[row.category] for row in rows]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "y": [index],
                "x": [ms(row.difference_ns)],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [ms(max(row.difference_high_ns - row.difference_ns, 0))],
                    "arrayminus": [ms(max(row.difference_ns - row.difference_low_ns, 0))],
                    "thickness": 1.5,
                    "width": 4,
                },
                "name": NAMES[row.category],
                "hovertext": [
                    f"{name} · {NAMES[row.category]} · +{duration_text(row.difference_ns)}"
                    f" ({interval_text(row.difference_low_ns, row.difference_high_ns)})"
                ],
                "hoverinfo": "text",
                "marker": {"pattern": {"shape": pattern(row.category), "size": 6, "solidity": 0.25}},
                "meta": {"colour": row.category.value},
            }
            for index, (row, name) in enumerate(zip(rows, names, strict=True))
        ],
        "layout": layout(
            # Below 112 pixels Plotly takes the room for the ticks from nowhere and cuts them off.
            max(56 + 28 * len(rows), 112),
            bargap=0.35,
            barmode="overlay",
            xaxis={
                **duration_axis([max(row.difference_high_ns, row.difference_ns) for row in rows], log=False),
                "automargin": True,
            },
            # A number an entry, names as tick labels: equal names must not fall onto one bar.
            yaxis={
                "tickvals": list(range(len(rows))),
                "ticktext": names,
                "range": [max(len(rows), 1) - 0.5, -0.5],
                "automargin": True,
                "showgrid": False,
                "zeroline": False,
            },
            showlegend=False,
            margin={"l": 8, "r": 8, "t": 8, "b": 8},
        ),
    }


def _part(row: LedgerRow, normal: str, slow: str) -> dict[str, Any]:
    name = NAMES[row.category]
    interval = interval_text(row.difference_low_ns, row.difference_high_ns)
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": [normal, slow],
        "x": [ms(row.body_mean_ns), ms(row.tail_mean_ns)],
        "text": [f"{name} {duration_text(row.body_mean_ns)}", f"{name} {duration_text(row.tail_mean_ns)}"],
        "hovertext": [
            f"{name} · {duration_text(row.body_mean_ns)} in the mean {normal} request",
            f"{name} · {duration_text(row.tail_mean_ns)} in the mean {slow} request · difference {interval}",
        ],
        "hoverinfo": "text",
        "textposition": "none",
        "marker": {"pattern": {"shape": pattern(row.category), "size": 6, "solidity": 0.25}},
        "meta": {"colour": row.category.value},
    }
