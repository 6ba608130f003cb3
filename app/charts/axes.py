"""What all charts share: escaped labels, axes of time and duration, the layout."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from analysis.wording import duration_text

MS_NS = 1_000_000
LABEL_CHARACTERS = 48


def label(text: str) -> str:
    """A name as Plotly shows it literally: markup escaped, control characters as blanks, shortened in the middle."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    if len(shown) > LABEL_CHARACTERS:
        half = LABEL_CHARACTERS // 2
        shown = f"{shown[: half - 1]}…{shown[-half:]}"
    # A dollar sign at both ends would be TeX were MathJax present, and %{…} a template: both are broken by entities.
    return (
        shown.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("$", "&#36;")
        .replace("%{", "&#37;{")
    )


def ms(duration_ns: int) -> float:
    """Milliseconds with the precision a chart can show, so that figures stay small."""
    return float(f"{duration_ns / MS_NS:.6g}")


def epoch_ms(instant_ns: int) -> int:
    """Milliseconds since the epoch, what Plotly's date axis counts in."""
    return instant_ns // MS_NS


def duration_axis(values_ns: Iterable[int], log: bool = True) -> dict[str, Any]:
    """A value axis in milliseconds with ticks in words (`100 ms`, `1 s`), logarithmic where all values allow it."""
    positive = [value for value in values_ns if value > 0]
    low_ns, high_ns = (min(positive), max(positive)) if positive else (MS_NS, 1000 * MS_NS)
    axis: dict[str, Any] = {"showgrid": True, "zeroline": False}
    if not log:
        ticks = _linear_ticks(high_ns)
        return {
            **axis,
            "type": "linear",
            "rangemode": "tozero",
            "tickvals": [ms(tick) for tick in ticks],
            "ticktext": [_tick_text(tick) for tick in ticks],
        }
    ticks = _log_ticks(low_ns, high_ns)
    return {
        **axis,
        "type": "log",
        "range": [math.log10(low_ns / MS_NS * 0.85), math.log10(high_ns / MS_NS * 1.2)],
        "tickvals": [ms(tick) for tick in ticks],
        "ticktext": [_tick_text(tick) for tick in ticks],
    }


def _tick_text(tick_ns: int) -> str:
    value, _, unit = duration_text(tick_ns).partition(" ")
    return f"{float(value):g} {unit}" if value.replace(".", "", 1).isdigit() else duration_text(tick_ns)


def _log_ticks(low_ns: int, high_ns: int) -> list[int]:
    steps = (1, 2, 5) if high_ns < 300 * low_ns else (1,)
    first = math.floor(math.log10(low_ns))
    last = math.ceil(math.log10(high_ns))
    return [step * 10**power for power in range(max(first, 0), last + 1) for step in steps]


def _linear_ticks(high_ns: int) -> list[int]:
    step = 10 ** math.floor(math.log10(max(high_ns, 1)))
    for factor in (0.2, 0.5, 1):
        if high_ns / (step * factor) <= 6:
            step = int(step * factor) or 1
            break
    return [step * index for index in range(int(high_ns // step) + 2)]


def layout(height: int, **more: Any) -> dict[str, Any]:
    """The layout of every chart: no title, small margins, legend above."""
    return {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 28, "b": 8},
        "legend": {"orientation": "h", "traceorder": "normal", "x": 0, "y": 1, "yanchor": "bottom", "xanchor": "left"},
        "hovermode": "closest",
        "dragmode": False,
        **more,
    }


def time_axis(start_ns: int, end_ns: int) -> dict[str, Any]:
    """The axis of time; charts.js moves its values into the reader's zone."""
    return {"type": "date", "range": [epoch_ms(start_ns), epoch_ms(end_ns)], "showgrid": False, "automargin": True}
