"""The verdict, the waterfall, marks, attributes and docstring pages: pure parts of pages."""

from __future__ import annotations

import pytest

from analysis.endpoint_reports import Region
from analysis.ledger import Category
from analysis.reports import EndpointRow, FixesReport
from analysis.trace_reports import TraceSpanRow
from app.pages.attributes import attribute_rows
from app.pages.endpoint import region_words
from app.pages.fixes import paragraphs
from app.pages.icicle import Icicle, icicles
from app.pages.marks import kind_bar, sparkline, spreads
from app.pages.rendering import interval_of, rate_text, saved_duration, value_with_unit
from app.pages.verdict import change_sentence, verdict
from app.pages.waits import retry_sentence, wait_sentence
from app.pages.waterfall import FIRST_ROWS, FOLD_KEEP, waterfall
from tests.app import reports_made as made

NOTHING = FixesReport((), (), (), 0, 0)


def test_the_verdict_names_endpoint_cause_and_gain() -> None:
    report = made.overview_report(made.endpoint_row("orders", "GET /orders", 20, 400))
    found = made.finding(service="orders", endpoint="GET /orders")
    said = verdict(report, made.fixes_report(found))
    assert said.tone == "slow"
    assert said.text == (
        "orders GET /orders has a p99 of 400 ms (360–440 ms), 20 times the median, and 1 % of its requests fail. "
        f"Change first: {found.title}; that would save at least 300 ms at p99."
    )
    assert [phrase.target for phrase in said.phrases if phrase.target] == ["endpoint", "fix"]


def test_a_guess_is_not_a_verdict() -> None:
    report = made.overview_report(made.endpoint_row("orders", "GET /orders", 20, 400))
    said = verdict(report, made.fixes_report(made.finding(confidence="low")))
    assert "No detector names a cause" in said.text


def test_a_calm_service_is_called_calm() -> None:
    said = verdict(made.overview_report(made.endpoint_row("orders", "GET /orders", 20, 60)), NOTHING)
    assert said.tone == "calm"
    assert "No endpoint has a long tail" in said.text
    assert "3.0 times its median" in said.text


def test_few_requests_are_no_tail() -> None:
    said = verdict(made.overview_report(made.endpoint_row("orders", "GET /orders", 20, 900, count=12)), NOTHING)
    assert said.tone == "unsure"
    assert "12 requests" in said.text


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (Region(low_ns=90_000_000), "took at least 90.0 ms"),
        (Region(high_ns=90_000_000), "took less than 90.0 ms"),
        (Region(to_ns=10**9), "began before 1970-01-01 00:00:01.000 UTC"),
        (
            Region(10**9, 2 * 10**9, 10**6, 2 * 10**6),
            "began between 1970-01-01 00:00:01.000 UTC and 1970-01-01 00:00:02.000 UTC, "
            "and took between 1.00 ms and 2.00 ms",
        ),
    ],
)
def test_words_of_a_region(region: Region, words: str) -> None:
    assert region_words(region) == words


def test_sentences_of_waits_and_retries() -> None:
    assert "10.0 s in all, 6 % of 500 had to wait, p95 80.0 ms" in wait_sentence((made.queue_row(),))
    assert "makes 1.15 attempts a call: 90 of 1\u2009000" in retry_sentence(made.retries_report())


def test_repeated_leaves_are_folded_but_never_a_failed_or_selected_one() -> None:
    rows = (
        made.span_row(1, length_ms=1000, child_count=40),
        *(made.span_row(10 + k, 1, 1, 10 * k, 5, failed=k == 20) for k in range(40)),
    )
    folded = waterfall(made.trace_report(rows), all_rows=False, selected=45)
    shown = [(row.span.span_id, row.folded) for row in folded.rows]
    assert (30, 0) in shown, "the failed one"
    assert (45, 0) in shown, "the selected one"
    assert (10 + FOLD_KEEP, 20 - FOLD_KEEP) in shown
    assert sum(row.folded or 1 for row in folded.rows) == folded.shown == 41
    assert folded.folded
    assert not folded.cut
    every = waterfall(made.trace_report(rows), all_rows=True, selected=None)
    assert [row.span.span_id for row in every.rows] == [row.span_id for row in rows]


def test_many_rows_are_cut_but_the_selected_span_stays() -> None:
    rows = (made.span_row(1), *(made.span_row(k, 1, 1, k / 1000, 1, name=f"call {k}") for k in range(2, 5000)))
    fall = waterfall(made.trace_report(rows), all_rows=False, selected=4321)
    assert fall.cut
    assert len(fall.rows) == FIRST_ROWS + 1
    assert fall.rows[-1].span.span_id == 4321
    assert (fall.shown, fall.total) == (FIRST_ROWS + 1, len(rows))


def test_bars_stand_where_their_spans_were() -> None:
    rows: tuple[TraceSpanRow, ...] = (
        made.span_row(1, length_ms=200, critical=()),
        made.span_row(2, 1, 1, 50, 50, attempt=1, failed=True),
        made.span_row(3, 1, 1, 150, 50, attempt=2, category=Category.POOL),
    )
    first, failed, again = waterfall(made.trace_report(rows), all_rows=False, selected=None).rows
    assert (first.bars[0].x, first.bars[0].width, first.critical) == (0.0, 100.0, ())
    assert (failed.bars[0].x, failed.bars[0].width) == (25.0, 25.0)
    assert (again.pauses[0].x, again.pauses[0].width, again.pauses[0].name) == (50.0, 25.0, "backoff 50.0 ms")
    assert again.patterned
    assert not failed.pauses


def test_a_trace_of_nothing_but_instants_can_be_drawn() -> None:
    fall = waterfall(made.trace_report((made.span_row(1, length_ms=0),)), all_rows=False, selected=None)
    assert 0 < fall.rows[0].bars[0].width < 1


def test_sparklines_break_where_there_was_no_request() -> None:
    assert len(sparkline((1, 2, 0, 3, 4))) == 2
    assert len(sparkline((0, 5, 0))) == 1, "a single part is drawn as a dash"
    assert sparkline((0, 0)) == ()


def test_marks_share_one_scale_and_shares_fill_the_bar() -> None:
    fast, slow, none = spreads(
        [made.endpoint_row(p50_ms=1, p99_ms=10), made.endpoint_row(p50_ms=10, p99_ms=100), _empty()]
    )
    assert fast is not None
    assert slow is not None
    assert fast.p99_x == pytest.approx(slow.p50_x, abs=0.1)
    assert none is None
    row = made.endpoint_row()
    assert kind_bar(row) == ()
    parts = kind_bar(type(row)(**{**vars(row), "work_share": 0.5, "wait_share": 0.25, "waste_share": 0.0}))
    assert [(part.role, part.x, part.width) for part in parts] == [
        ("work", 0.0, 50.0),
        ("wait", 50.0, 25.0),
        ("unknown", 75.0, 25.0),
    ]


def _empty() -> EndpointRow:
    row = made.endpoint_row()
    nothing = made.quantile(0.5, None)
    return type(row)(**{**vars(row), "p50": nothing, "p95": nothing, "p99": nothing})


@pytest.mark.parametrize(
    ("json_text", "value", "is_link"),
    [
        ('{"k":"https://example.org/a?b=1"}', "https://example.org/a?b=1", True),
        ('{"k":"javascript:alert(1)"}', "javascript:alert(1)", False),
        ('{"k":" https://example.org"}', " https://example.org", False),
        ('{"k":"\\u0001javascript:alert(1)"}', "\x01javascript:alert(1)", False),
        ('{"k":"JaVaScRiPt:alert(1)"}', "JaVaScRiPt:alert(1)", False),
        ('{"k":"data:text/html,x"}', "data:text/html,x", False),
        ('{"k":"https://example.org/\\"><b>"}', 'https://example.org/"><b>', False),
        ('{"k":{"$bytes":"AAE="}}', "bytes, base64: AAE=", False),
        ('{"k":{"$double":"NaN"}}', "NaN", False),
        ('{"k":1.0}', "1.0", False),
        ('{"k":true}', "true", False),
        ("not json", "not json", False),
    ],
)
def test_attribute_values(json_text: str, value: str, is_link: bool) -> None:
    (row,) = attribute_rows(json_text)
    assert row.value == value
    assert bool(row.url) == is_link


def test_cut_values_are_whole_characters() -> None:
    (row,) = attribute_rows('{"k":"' + "€" * 1000 + '"}')
    assert row.value == "€" * 682
    assert row.full_bytes == 3000
    assert attribute_rows("{}") == ()


def test_docstrings_become_paragraphs_and_code() -> None:
    drawn = "    cart  GET /a   0..9\n      db  q   1..2 db"
    blocks = paragraphs(f"Use `x`\nhere.\n\n{drawn}\n\n```python\nawait y\n```\nEnd.")
    assert blocks == [
        ("prose", [("Use ", False), ("x", True), (" here.", False)]),
        ("code", drawn),
        ("code", "await y"),
        ("prose", [("End.", False)]),
    ]


def test_numbers_in_words() -> None:
    assert value_with_unit(made.quantile(0.5, None)) == "no data"
    assert interval_of(made.quantile(0.99, 5, trusted=False, count=100)) == "n = 100, too small"
    rates = [rate_text(rate) for rate in (12.345, 0.4, 0.005, 0.00001, 1e-10)]
    assert rates == ["12.3 /s", "24 /min", "18 /h", "0.864 /day", "< 0.01 /day"]
    assert [saved_duration(saved) for saved in (84_300_000, 0, -1_000_000)] == ["−84.3 ms", "no change", "+1.00 ms"]


def test_icicles_are_on_one_scale_and_calls_lie_inside_their_callers() -> None:
    steps = made.endpoint_report().path
    normal, slow = icicles(steps)
    assert (normal.total_ns, slow.total_ns) == (20_000_000, 400_000_000)
    assert [(cell.x, cell.width, cell.y) for cell in slow.cells] == [(0, 100, 0), (0, 75, 24), (75, 24.5, 24)]
    # Nobody waited for a connection: that call is not drawn, and the next takes its place.
    assert [(cell.step.service, cell.x, cell.width) for cell in normal.cells[1:]] == [("orders", 0, 4.75)]
    assert (normal.height, slow.height) == (48, 48)
    assert icicles(()) == (Icicle((), 0, 0), Icicle((), 0, 0))


def test_a_change_is_told_with_its_place_and_versions() -> None:
    first, second = made.endpoint_report().changes
    assert change_sentence(first) == (
        "p95 rose from 90.0 ms to 99.0 ms. "
        f"The mean request spends 30.0 ms more waiting for a connection ({made.HOSTILE}). "
        f"First seen at about that time: {made.HOSTILE}."
    )
    assert change_sentence(second) == (
        f"p50 fell from 22.0 ms to 20.0 ms. The service at fault is most likely {made.HOSTILE}: "
        "30.0 ms more a request, +4.2 σ beyond the usual; usual calls are missing after 25 % of the requests to it; "
        "failures begin in 50 % of the requests to it."
    )
