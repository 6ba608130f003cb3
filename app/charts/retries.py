"""What retries do: how far attempts get, and the pauses between them."""

from __future__ import annotations

from analysis.reports import RetryEdge
from analysis.wording import count_text, duration_text
from app.charts import Figure
from app.charts.axes import duration_axis, layout, ms


def attempts_figure(edge: RetryEdge) -> Figure:
    """A bar an attempt: how many succeeded, how many failed."""
    names = [f"attempt {outcome.ordinal}" for outcome in edge.by_attempt]
    succeeded = [outcome.succeeded for outcome in edge.by_attempt]
    failed = [outcome.failed for outcome in edge.by_attempt]
    rows = list(zip(names, succeeded, failed, strict=True))
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": "succeeded",
                "y": names,
                "x": succeeded,
                "text": [
                    f"{name}: {count_text(count)} succeeded" for name, count in zip(names, succeeded, strict=True)
                ],
                "textposition": "none",
                "hoverinfo": "text",
                "meta": {"colour": "remote_call"},
            },
            {
                "type": "bar",
                "orientation": "h",
                "name": "failed",
                "y": names,
                "x": failed,
                "text": [f"{name}: {count_text(bad)} failed" for name, _, bad in rows],
                "textposition": "none",
                "hoverinfo": "text",
                "marker": {"pattern": {"shape": ".", "size": 6, "solidity": 0.25}},
                "meta": {"colour": "failed_attempts"},
            },
        ],
        "layout": layout(
            90 + 28 * max(len(names), 1),
            barmode="stack",
            bargap=0.3,
            xaxis={"rangemode": "tozero", "showgrid": True, "zeroline": False, "nticks": 5, "automargin": True},
            yaxis={"type": "category", "autorange": "reversed", "automargin": True, "showgrid": False},
        ),
    }


def backoff_figure(edge: RetryEdge) -> Figure:
    """Every pause before a retry as a mark: a column of marks is a constant pause, a cloud is jitter."""
    gaps = [(after, gap) for after, row in enumerate(edge.backoff_gaps_ns, start=1) for gap in row]
    # Pauses of nothing cannot stand on a logarithmic axis: they are drawn at 10 µs and say so.
    floor_ns = 10_000
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "name": "pause",
                "x": [ms(max(gap, floor_ns)) for _, gap in gaps],
                # Spread over a fifth of the row, always the same way, so that equal pauses do not hide each other.
                "y": [after + (index * 7 % 11 - 5) / 25 for index, (after, _) in enumerate(gaps)],
                "text": [f"{duration_text(gap)} after attempt {after}" for after, gap in gaps],
                "hoverinfo": "text",
                "marker": {"size": 7, "opacity": 0.6},
                "meta": {"colour": "backoff"},
            }
        ],
        "layout": layout(
            80 + 36 * max(len(edge.backoff_gaps_ns), 1),
            xaxis={**duration_axis([max(gap, floor_ns) for _, gap in gaps]), "automargin": True},
            yaxis={
                "tickvals": list(range(1, len(edge.backoff_gaps_ns) + 1)),
                "ticktext": [f"after attempt {after}" for after in range(1, len(edge.backoff_gaps_ns) + 1)],
                "range": [len(edge.backoff_gaps_ns) + 0.5, 0.5],
                "showgrid": False,
                "zeroline": False,
                "automargin": True,
            },
            showlegend=False,
        ),
    }
