"""Report to figure: one pure function a chart, plain dicts that Plotly draws.

A figure names colours by role in `meta` (`{"colour": "database"}`); static/charts.js fills them in by theme.
Every name out of telemetry passes `label` first: Plotly reads a subset of HTML in any text.
"""

from __future__ import annotations

from typing import Any

Figure = dict[str, Any]
"""`data` and `layout` as plotly.graph_objects.Figure takes them."""
