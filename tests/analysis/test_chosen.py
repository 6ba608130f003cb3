"""Chosen requests against the others: who is in, what they spend more or less of, and when nothing can be said."""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np
import pytest

from analysis.chosen import chosen_report
from analysis.cohorts import two_sample_interval
from analysis.endpoint_reports import ChosenReport, Region
from analysis.errors import NotFound
from analysis.ledger import Category
from analysis.region import sample_region
from analysis.sketch import EPOCH_NS
from app.otlp.columns import Batch
from tests.stored import sketched_batch, stored

SECOND_NS = 1_000_000_000
MS = 1_000_000


HOLDER = """
    orders  GET /report  2..{end}
      orders  checkout  2.1..2.4 pool
      orders  SELECT sum FROM y  2.5..{end} db
"""
"""Has the pool's one connection while others wait for it."""


def drawn(wait_ms: float, work_ms: float) -> str:
    end = 10 + wait_ms + work_ms
    return f"""
    gateway  GET /cart  0..{end + 4}
      orders  GET /order  2..{end + 2}
        orders  checkout  4..{5 + wait_ms} pool
        orders  SELECT x FROM y WHERE id = $1  {6 + wait_ms}..{6 + wait_ms + work_ms} db
    {HOLDER.format(end=4 + wait_ms) if wait_ms else ""}
    """


@lru_cache
def incident() -> Batch:
    """1,000 requests a second apart; those of 400 to 500 s wait 80 ms for a connection."""
    draws = random.Random(4)
    return sketched_batch(
        drawn(80 if 400 <= second < 500 else 0, round(draws.uniform(10, 20), 3)) for second in range(1000)
    )


def report_on(region: Region, batch: Batch | None = None) -> ChosenReport:
    with stored([batch or incident()]) as spans:
        return chosen_report(spans, "gateway", "GET /cart", region)


def seconds(first: int, last: int) -> Region:
    return Region(EPOCH_NS + first * SECOND_NS, EPOCH_NS + last * SECOND_NS)


def test_the_time_of_an_incident_names_what_waited_with_its_size() -> None:
    report = report_on(seconds(400, 500))
    assert (report.chosen.count, report.rest.count) == (100, 900)
    assert (report.sampled_tail, report.sampled_body) == (100, 200)
    assert report.ledger[0].category == Category.POOL
    # The wait's own millisecond of 4..5 is in both cohorts.
    assert report.ledger[0].difference_ns == pytest.approx(80e6, abs=1)
    assert report.ledger[0].difference_low_ns <= 80 * MS <= report.ledger[0].difference_high_ns
    assert "waiting for a connection (orders: pool of postgresql app)" in report.sentence
    assert report.sentence.startswith("100 requests chosen, ")
    assert all(EPOCH_NS + 400 * SECOND_NS <= one.start_ns < EPOCH_NS + 500 * SECOND_NS for one in report.exemplars)
    assert {one.label for one in report.exemplars} >= {"p50", "slowest"}


def test_fast_requests_may_be_chosen_too() -> None:
    report = report_on(Region(low_ns=0, high_ns=60 * MS))
    assert (report.chosen.count, report.rest.count) == (900, 100)
    assert "less, most of it in orders: pool of postgresql app" in report.sentence
    assert report.ledger[-1].category == Category.POOL


def test_any_hundred_seconds_of_calm_differ_in_nothing() -> None:
    report = report_on(seconds(0, 100), sketched_batch(drawn(0, 10 + number % 7) for number in range(700)))
    assert report.sentence.endswith("In the mean both take as long.")
    assert (report.contrasts.values, report.contrasts.numbers) == ((), ())


def test_all_that_there_is_has_no_others() -> None:
    report = report_on(Region())
    assert report.rest.count == report.sampled_body == 0
    assert "nothing to compare with" in report.sentence


def test_few_are_not_explained() -> None:
    report = report_on(seconds(400, 402))
    assert report.chosen.count == 2
    assert "Too few to tell" in report.sentence
    assert any("as few as 2" in note for note in report.trust)


def test_none_are_not_found() -> None:
    with pytest.raises(NotFound, match="no request to gateway GET /cart in the chosen region"):
        report_on(seconds(5000, 6000))


def test_bounds_are_closed_below_and_open_above() -> None:
    batch = sketched_batch(drawn(0, work) for work in (10, 20, 30))
    durations = [(14 + work) * MS for work in (10, 20, 30)]
    with stored([batch]) as spans:
        for low, high, count in ((0, 1, 1), (1, 2, 1), (0, 2, 2)):
            region = Region(low_ns=durations[low], high_ns=durations[high])
            assert sample_region(spans, "gateway", "GET /cart", region).chosen.count == count
        for first, last, count in ((0, 1, 1), (0, 2, 2), (1, 3, 2)):
            assert sample_region(spans, "gateway", "GET /cart", seconds(first, last)).chosen.count == count


def test_sides_hold_what_the_region_says_by_a_count_of_all() -> None:
    draws = random.Random(8)
    with stored([incident()]) as spans:
        everything = spans.rows(
            "select start_ns, duration_ns from requests where service = 'gateway' and endpoint = 'GET /cart'"
        )
        for _ in range(5):
            first = draws.randrange(900)
            last = draws.randrange(first + 1, 1000)
            low, high = sorted(draws.sample(range(20, 120), 2))
            region = Region(
                EPOCH_NS + first * SECOND_NS, EPOCH_NS + last * SECOND_NS, low_ns=low * MS, high_ns=high * MS
            )
            inside = [
                duration
                for start, duration in everything
                if region.from_ns <= start < region.to_ns and region.low_ns <= duration < region.high_ns
            ]
            if not inside:
                continue
            sample = sample_region(spans, "gateway", "GET /cart", region)
            assert sample.chosen.count == len(inside)
            assert sample.rest.count == len(everything) - len(inside)
            assert sample.chosen.p50_ns == pytest.approx(float(np.quantile(inside, 0.5)), rel=0.02)
            assert len(sample.tail) == min(len(inside), 200)
            assert all(low * MS <= request.duration_ns < high * MS for request in sample.tail)
            assert not {one.trace.trace_id for one in sample.tail} & {one.trace.trace_id for one in sample.body}


def test_the_same_data_sent_twice_or_in_another_order_gives_the_same_report() -> None:
    batch = incident()
    first = report_on(seconds(350, 450))
    with stored([batch, batch]) as spans:
        assert chosen_report(spans, "gateway", "GET /cart", seconds(350, 450)) == first


def test_the_interval_of_two_samples_covers_the_truth_as_often_as_it_says() -> None:
    random_numbers = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        chosen = random_numbers.exponential(10, size=(60, 1)) + 5
        rest = random_numbers.exponential(10, size=(80, 1))
        low, high = two_sample_interval((chosen, np.ones(60), np.arange(60)), (rest, np.ones(80), np.arange(80)))
        covered += low[0] <= 5 <= high[0]
    # Binomial(200, 0.95) is below 180 in 0.1 % of runs; the percentile bootstrap of 60 runs a point or two low.
    assert 178 <= covered <= 200


def test_the_interval_of_two_samples_agrees_with_the_normal_one() -> None:
    random_numbers = np.random.default_rng(6)
    chosen, rest = random_numbers.normal(30, 4, size=(150, 2)), random_numbers.normal(20, 3, size=(200, 2))
    low, high = two_sample_interval((chosen, np.ones(150), np.arange(150)), (rest, np.ones(200), np.arange(200)))
    error = np.sqrt(chosen.var(axis=0) / 150 + rest.var(axis=0) / 200)
    middle = chosen.mean(axis=0) - rest.mean(axis=0)
    assert low == pytest.approx((middle - 1.96 * error).tolist(), abs=0.12)
    assert high == pytest.approx((middle + 1.96 * error).tolist(), abs=0.12)
