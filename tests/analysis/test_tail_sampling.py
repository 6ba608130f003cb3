"""Percentiles of traces that a sampler kept by how long they took are withheld; what was kept is still explained."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache

import pytest

from analysis.endpoint_reports import EndpointReport
from analysis.fixes import fixes
from analysis.ledger import Category
from analysis.overview import overview
from analysis.reports import Overview
from analysis.span import Kind
from analysis.tail import endpoint_report
from analysis.wording import count_text
from app.otlp.columns import Batch
from tests.stored import MS, Drawn, stored

COUNT = 12_000
_SELECT = {"db.system.name": "postgresql", "db.query.text": "SELECT 1"}


def shop(keep: Callable[[float], float], trace_state: Callable[[float], str] = lambda took: "") -> Batch:
    """gateway POST /orders calls orders, which waits for its database; a request stays with a chance by its duration.

    Another endpoint of the gateway is quick, and too seldom slow to show what a sampler does.
    """
    draws = random.Random(5)
    drawn = Drawn()
    for number in range(COUNT):
        took = 8 + draws.lognormvariate(4.8, 0.75)
        if draws.random() >= keep(took):
            continue
        at, trace = number * 20.0, number + 1
        root = drawn.add("gateway", "POST /orders", at, at + took, kind=Kind.SERVER, trace=trace)
        call = drawn.add(
            "gateway",
            "POST",
            at + 1,
            at + took - 1,
            parent=root,
            trace=trace,
            attributes={"http.request.method": "POST"},
        )
        served = drawn.add(
            "orders", "POST /orders", at + 2, at + took - 2, kind=Kind.SERVER, parent=call, trace=trace, remote=True
        )
        drawn.add("orders", "SELECT", at + 3, at + took - 4, parent=served, trace=trace, attributes=_SELECT)
        if number % 20 == 0:
            drawn.add("gateway", "GET /health", at, at + draws.uniform(1, 4), kind=Kind.SERVER, trace=trace + COUNT)
        for _, _, _, record in drawn.records[-4:]:
            record.trace_state = trace_state(took)
    return drawn.batch()


def _kept_ms() -> tuple[list[float], list[float]]:
    """Milliseconds of the kept requests of 500 ms and more, and of the others."""
    draws = random.Random(5)
    kept = []
    for number in range(COUNT):
        took = 8 + draws.lognormvariate(4.8, 0.75)
        if draws.random() < slow_and_a_tenth(took):
            kept.append(took)
            if number % 20 == 0:
                draws.uniform(1, 4)
    return [took for took in kept if took >= 500], [took for took in kept if took < 500]


def slow_and_a_tenth(took: float) -> float:
    return 1.0 if took >= 500 else 0.1


@lru_cache(maxsize=1)
def sampled() -> tuple[Overview, EndpointReport, EndpointReport]:
    """The overview, and the pages of the endpoint whose duration decided and of the one that it calls."""
    with stored([shop(slow_and_a_tenth)]) as spans:
        return (
            overview(spans),
            endpoint_report(spans, "gateway", "POST /orders"),
            endpoint_report(spans, "orders", "POST /orders"),
        )


def test_percentiles_of_both_are_withheld_and_those_of_the_quick_one_are_not() -> None:
    report, *_ = sampled()
    rows = {(row.service, row.endpoint): row for row in report.endpoints}
    for key in (("gateway", "POST /orders"), ("orders", "POST /orders")):
        row = rows[key]
        assert row.tail_sampling is not None
        assert (row.tail_sampling.service, row.tail_sampling.endpoint) == ("gateway", "POST /orders")
        assert row.tail_sampling.step.threshold_ns == 500 * MS
        assert [one.value_ns for one in (row.p50, row.p95, row.p99, row.p999)] == [None] * 4
        assert row.p99.count == row.count
    quick = rows["gateway", "GET /health"]
    assert quick.tail_sampling is None
    assert quick.p50.value_ns is not None
    [note] = [note for note in report.notes if "Percentiles are withheld" in note]
    assert "gateway POST /orders took 500 ms to 5 % more" in note


def test_the_page_of_the_endpoint_holds_all_slow_requests_against_the_shorter_ones() -> None:
    _, report, _ = sampled()
    assert report.withheld.startswith("Percentiles are withheld")
    assert report.row.p99.value_ns is None
    assert (report.tail_from_ns, report.body_low_ns, report.body_high_ns) == (500 * MS, 0, 500 * MS)
    assert set(report.series.p50_ns) == set(report.series.p99_ns) == {None}
    assert report.changes == ()
    assert report.sentence.startswith("No percentiles: traces look sampled by how long they took. Of the kept requests")
    assert "those of 500 ms and more spend, against the shorter ones," in report.sentence
    assert "more in the database (orders → postgresql: SELECT ?)" in report.sentence
    [database] = [row for row in report.category_rows if row.category == Category.DATABASE]
    # By hand: a request waits for the database for all but 7 ms.
    slow, shorter = _kept_ms()
    assert database.tail_mean_ns == pytest.approx((sum(slow) / len(slow) - 7) * MS, rel=0.05)
    assert database.body_mean_ns == pytest.approx((sum(shorter) / len(shorter) - 7) * MS, rel=0.1)
    assert {example.label for example in report.exemplars} == {"p50", "slowest"}
    assert report.trust[0] == (
        f"{report.sampled_tail} of {len(slow)} kept requests of 500 ms and more and {report.sampled_body} of "
        f"{count_text(len(shorter))} shorter ones were looked at span by span."
    )


def test_the_page_of_the_called_one_says_whose_durations_decided() -> None:
    *_, report = sampled()
    assert "of gateway POST /orders took 500 ms to 5 % more" in report.withheld
    assert report.row.p95.value_ns is None
    assert "the slowest spend, against the typical ones," in report.sentence
    assert report.body_low_ns > 0


def test_all_traces_and_such_as_say_how_they_were_sampled_have_percentiles() -> None:
    with stored([shop(lambda took: 1.0)]) as spans:
        whole = endpoint_report(spans, "gateway", "POST /orders")
        assert not any("withheld" in note for note in overview(spans).notes)
    with stored([shop(slow_and_a_tenth, lambda took: "ot=th:0" if took >= 500 else "ot=th:e6666666666666")]) as spans:
        said = endpoint_report(spans, "gateway", "POST /orders")
        assert not any("withheld" in note for note in overview(spans).notes)
    assert whole.withheld == said.withheld == ""
    for one, other in ((whole.row.p50, said.row.p50), (whole.row.p99, said.row.p99)):
        assert one.value_ns is not None
        assert other.low_ns is not None
        assert other.high_ns is not None
        assert other.low_ns <= one.value_ns <= other.high_ns


def requests(durations: Sequence[tuple[float, Sequence[tuple[str, float]]]]) -> Batch:
    """Requests of one endpoint: milliseconds, and calls one after another by name and milliseconds."""
    drawn = Drawn()
    for number, (took, calls) in enumerate(durations):
        at = number * 20.0
        root = drawn.add("shop", "GET /", at, at + took, kind=Kind.SERVER, trace=number + 1)
        for name, length in calls:
            drawn.add(
                "shop",
                name,
                at,
                at + length,
                parent=root,
                trace=number + 1,
                attributes={"db.system.name": "postgresql", "db.query.text": name},
            )
            at += length
    return drawn.batch()


def test_a_fallback_after_a_timeout_is_no_sampler() -> None:
    """A tenth of the requests give up a slow query at 500 ms and ask a replica: the density jumps at 500 ms."""
    draws = random.Random(8)
    made: list[tuple[float, Sequence[tuple[str, float]]]] = []
    for number in range(9_000):
        if number % 10:
            took = draws.lognormvariate(4.3, 0.6)
            made.append((took, [("SELECT catalog", took * 0.9)]))
        else:
            fell_back = draws.expovariate(1 / 150)
            made.append((500 + fell_back, [("SELECT price", 499.5), ("SELECT replica", fell_back * 0.9)]))
    with stored([requests(made)]) as spans:
        report = endpoint_report(spans, "shop", "GET /")
    # The density alone looks like a sampler's.
    assert report.row.density_step is not None
    assert report.row.density_step.threshold_ns == 500 * MS
    assert report.withheld == ""
    assert report.row.p99.value_ns is not None


def test_gains_say_that_they_are_of_what_was_kept() -> None:
    draws = random.Random(9)
    drawn = Drawn()
    for number in range(16_000):
        took = 8 + draws.lognormvariate(4.8, 0.75)
        if draws.random() >= slow_and_a_tenth(took):
            continue
        at, trace = number * 20.0, number + 1
        root = drawn.add("shop", "GET /cart", at, at + took, kind=Kind.SERVER, trace=trace)
        for part in range(12):
            begins = at + 1 + part * (took - 2) / 12
            drawn.add("shop", "SELECT", begins, begins + (took - 3) / 12, parent=root, trace=trace, attributes=_SELECT)
    with stored([drawn.batch()]) as spans:
        report = fixes(spans)
    assert report.findings
    assert all(gain.of_kept for finding in report.findings for gain in finding.gains)


@pytest.mark.parametrize("times", [1, 2])
def test_sending_again_and_other_ids_change_nothing(times: int) -> None:
    batch = shop(slow_and_a_tenth)
    with stored([batch] * times) as spans:
        assert overview(spans).endpoints == sampled()[0].endpoints
