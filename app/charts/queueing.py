"""Waiting over time: what arrives and how long it waits."""

from __future__ import annotations

from analysis.reports import QueueRow
from analysis.wording import count_text, duration_text
from app.charts import Figure
from app.charts.axes import duration_axis, epoch_ms, layout, ms, time_axis

_COLOURS = {"queue": "queue", "pool": "pool", "front": "queue"}


def queue_figure(row: QueueRow) -> Figure:
    """The p95 of the wait above, arrivals below, over the same time."""
    middle = row.bucket_ns // 2
    times = [epoch_ms(start + middle) for start in row.start_ns]
    starts = row.start_ns or (0,)
    axis = time_axis(starts[0], starts[-1] + max(row.bucket_ns, 1))
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": "p95 of the wait",
                "x": times,
                "y": [None if value is None else ms(value) for value in row.wait_p95_ns],
                "text": [
                    "" if value is None else f"p95 of the wait {duration_text(value)} · n = {count}"
                    for value, count in zip(row.wait_p95_ns, row.arrivals, strict=True)
                ],
                "hoverinfo": "text",
                "connectgaps": False,
                "marker": {"size": 6},
                "line": {"width": 2},
                "meta": {"colour": _COLOURS.get(row.kind, "queue")},
            },
            {
                "type": "bar",
                "name": "arrivals",
                "x": times,
                "y": list(row.arrivals),
                "text": [f"{count_text(count)} arrived" for count in row.arrivals],
                "textposition": "none",
                "hoverinfo": "text",
                "yaxis": "y2",
                "marker": {"opacity": 0.55},
                "meta": {"colour": "unaccounted"},
            },
        ],
        "layout": layout(
            240,
            bargap=0.1,
            xaxis={**axis, "anchor": "y2"},
            yaxis={
                **duration_axis([value for value in row.wait_p95_ns if value], log=False),
                "domain": [0.42, 1],
                "automargin": True,
            },
            yaxis2={
                "domain": [0, 0.3],
                "rangemode": "tozero",
                "nticks": 3,
                "zeroline": False,
                "automargin": True,
                "showgrid": True,
            },
            meta={"time_axis": True},
        ),
    }
