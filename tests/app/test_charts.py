"""Every figure is one that Plotly accepts, and shows names out of telemetry literally."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from typing import Any

import plotly.graph_objects
import pytest

from analysis.endpoint_reports import Region
from app.charts import Figure
from app.charts.axes import LABEL_CHARACTERS, duration_axis, label
from app.charts.categories import MEANINGS, NAMES
from app.charts.ingest import ingest_figure
from app.charts.latency import latency_figure
from app.charts.ledger import difference_figure, ledger_figure
from app.charts.queueing import queue_figure
from app.charts.retries import attempts_figure, backoff_figure
from tests.app import reports_made as made
from tests.app.self_report_made import self_report_made

FIGURES = {
    "latency": lambda: latency_figure(made.endpoint_report()),
    "chosen": lambda: latency_figure(made.endpoint_report(), Region(low_ns=1_000_000)),
    "ledger": lambda: ledger_figure(made.endpoint_report().category_rows, "normal", "slow"),
    "difference": lambda: difference_figure(made.endpoint_report().ledger),
    "queue": lambda: queue_figure(made.queue_row()),
    "attempts": lambda: attempts_figure(made.retry_edge()),
    "backoff": lambda: backoff_figure(made.retry_edge()),
    "ingest": lambda: ingest_figure(self_report_made().ingest.recent),
}


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    return [text for item in value for text in texts(item)] if isinstance(value, list | tuple) else []


@pytest.fixture(params=list(FIGURES))
def figure(request: pytest.FixtureRequest) -> Figure:
    return FIGURES[request.param]()


def test_plotly_accepts_it(figure: Figure) -> None:
    plotly.graph_objects.Figure(figure)
    assert json.loads(json.dumps(figure, allow_nan=False)) == figure


def test_nothing_in_it_is_markup(figure: Figure) -> None:
    shown = [text for text in texts(figure) if text != "%{customdata} requests<extra></extra>"]
    assert shown
    for text in shown:
        assert "<" not in text
        assert "%{" not in text


def test_it_has_no_title_and_no_colour_of_its_own(figure: Figure) -> None:
    assert "title" not in figure["layout"]
    assert all("colour" in trace["meta"] for trace in figure["data"])
    assert not [text for text in texts(figure) if re.fullmatch(r"#[0-9a-fA-F]{3,8}|rgba?\(.*", text)]


def test_labels_show_literally() -> None:
    assert html.unescape(label("<b>x</b> & $y$ %{z}")) == "<b>x</b> & $y$ %{z}"
    assert not set("<>$") & set(label(made.HOSTILE))
    assert len(html.unescape(label("x" * 500))) == LABEL_CHARACTERS
    assert "\x1b" not in label("a\x1b[31mb\u202e")


def test_lines_break_where_too_few_requests_carry_them() -> None:
    lines = {trace["name"]: trace for trace in latency_figure(made.endpoint_report())["data"]}
    assert lines["p99"]["y"] == [None, None, None, 400.0]
    assert lines["p50"]["connectgaps"] is False
    assert lines["requests"]["customdata"][0] == [30, 0, 20, 500]


def test_changes_are_vertical_lines_with_their_words() -> None:
    report = made.endpoint_report()
    line = next(trace for trace in latency_figure(report)["data"] if trace["name"] == "change")
    assert line["x"][0] == line["x"][1] == report.changes[0].at_ns / 1e6
    assert line["x"][2] is line["y"][2] is None
    assert line["text"][:3] == ["p95 from 90.0 ms to 99.0 ms"] * 2 + [""]
    assert len(line["x"]) == len(line["y"]) == len(line["text"]) == 6
    steady = latency_figure(replace(report, changes=()))
    assert "change" not in {trace["name"] for trace in steady["data"]}


def test_a_chosen_region_is_framed_as_far_as_it_is_on_the_chart() -> None:
    report = made.endpoint_report()
    first = report.series.start_ns[0]
    figure = latency_figure(report, Region(first + report.series.bucket_ns, low_ns=90_000_000))
    frame = next(trace for trace in figure["data"] if trace["name"] == "chosen")
    assert frame["x"][0] == frame["x"][-1] == (first + report.series.bucket_ns) / 1e6
    assert max(frame["x"]) == figure["layout"]["xaxis"]["range"][1]
    assert min(frame["y"]) == 90.0
    assert max(frame["y"]) == max(value for value in report.series.p99_ns if value) / 1e6


def test_what_arrives_adds_up_and_what_never_came_is_not_drawn() -> None:
    series = self_report_made().ingest.recent
    traces = {trace["name"]: trace for trace in ingest_figure(series)["data"]}
    assert sum(traces["stored"]["y"]) * series.step_s == pytest.approx(1_800)
    assert sum(traces["rejected"]["y"]) * series.step_s == pytest.approx(5)
    assert traces["requests asked to retry"]["yaxis"] == "y2"
    quiet = {**series.counts, **dict.fromkeys(("rejected", "refused", "failed"), (0,) * 60)}
    figure = ingest_figure(replace(series, counts=quiet))
    assert [trace["name"] for trace in figure["data"]] == ["stored", "known already"]
    assert "yaxis2" not in figure["layout"]


def test_body_and_tail_add_up_to_their_means() -> None:
    report = made.endpoint_report()
    traces = ledger_figure(report.category_rows, "normal", "slow")["data"]
    assert sum(trace["x"][1] for trace in traces) == pytest.approx(
        sum(row.tail_mean_ns for row in report.category_rows) / 1e6
    )
    shapes = {trace["name"]: trace["marker"]["pattern"]["shape"] for trace in traces}
    assert (shapes["pool"], shapes["failed attempts"], shapes["database"]) == ("/", ".", "")


def test_equal_labels_keep_their_own_bars() -> None:
    figure = difference_figure(made.endpoint_report().ledger)
    assert [trace["y"] for trace in figure["data"]] == [[0], [1]]
    assert figure["data"][0]["error_x"]["array"] == [4.0]


def test_ticks_are_durations_in_words() -> None:
    axis = duration_axis([2_000_000, 1_900_000_000])
    assert dict(zip(axis["tickvals"], axis["ticktext"], strict=True))[1000.0] == "1 s"
    assert duration_axis([500_000_000], log=False)["ticktext"][:2] == ["0 s", "100 ms"]
    assert duration_axis([])["tickvals"]


def test_every_category_has_name_and_meaning() -> None:
    assert list(NAMES) == list(MEANINGS)
