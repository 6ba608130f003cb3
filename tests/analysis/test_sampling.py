"""Upstream sampling: the specification's thresholds, and numbers of the kept requests that hold for all of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pytest

from analysis.draw import draw_requests
from analysis.endpoint_reports import Region
from analysis.latency import endpoint_row, endpoint_rows, endpoint_totals, latency_series
from analysis.quantiles import quantile, quantiles_of_kept
from analysis.region import sample_region
from analysis.sample import equally_likely, mean_duration_ns, sample_endpoint
from analysis.sampling import ADJUSTED_COUNT, adjusted_count, is_sampled, sampling_note
from analysis.sketch import EPOCH_NS
from analysis.span import Kind
from analysis.tail import endpoint_report
from app.otlp.columns import Batch
from tests.stored import MS, Drawn, stored

ONE_IN_16, ALL = "ot=th:f", "ot=th:0"

THRESHOLDS = [
    # The specification's own: th:c is 25 %, th:8 half, th:0 all, th:fd70a4 about one in a hundred.
    ("ot=th:c", 4),
    ("ot=th:8", 2),
    ("ot=th:0", 1),
    ("ot=th:fd70a4", pytest.approx(100, rel=1e-4)),
    ("ot=rv:abcdefabcdefab;th:c", 4),
    ("vendor=x, ot=th:8;rv:00000000000000", 2),
    ("ot=th:8 ,vendor=x", 2),
    ("", None),
    ("vendor=th:8", None),
    ("vendor=ot=th:8", None),
    ("ot=rv:00000000000000", None),
    ("ot=xth:8", None),
    ("ot=th:", None),
    ("ot=th:xyz", None),
    ("ot=th:C", None),
    ("ot=th:123456789012345", None),
    ("ot=th:ffffffffffffff", 16**14),
]


@pytest.mark.parametrize(("trace_state", "count"), THRESHOLDS)
def test_thresholds(trace_state: str, count: object) -> None:
    assert adjusted_count(trace_state) == count


@pytest.mark.parametrize(("trace_state", "count"), THRESHOLDS)
def test_thresholds_in_the_stores_words(trace_state: str, count: object) -> None:
    # S608: a constant expression.
    query = f"select {ADJUSTED_COUNT} from (select $trace_state as trace_state)"
    assert duckdb.execute(query, {"trace_state": trace_state}).fetchall() == [(1 if count is None else count,)]


def test_what_is_said_depends_on_whether_all_are_alike() -> None:
    assert sampling_note([1.0], [1.0], 2) == ""
    assert "one request in 4 " in sampling_note([4.0] * 3, [4.0] * 5, 32)
    unequal = sampling_note([1.0, 1.0], [100.0, 100.0], 12_345.4)
    assert "a slow one stands for 1, a normal one for 100" in unequal
    assert "they stand for about 12\u2009345." in unequal


@dataclass
class Population:
    """Requests of one endpoint in milliseconds, and what a sampler made of each: a trace state, None if dropped."""

    durations_ms: list[float]
    states: list[str | None]

    def batch(self) -> Batch:
        """The kept ones, each with a database call that takes all but 5 ms, or half of a slow one."""
        drawn = Drawn()
        for number, (took, state) in enumerate(zip(self.durations_ms, self.states, strict=True)):
            if state is None:
                continue
            at = number * 10.0
            root = drawn.add("shop", "GET /", at, at + took, kind=Kind.SERVER, trace=number + 1)
            called = took - 5 if took < 200 else took / 2
            drawn.add(
                "shop",
                "SELECT",
                at + 1,
                at + 1 + called,
                parent=root,
                trace=number + 1,
                attributes={"db.system.name": "postgresql", "db.query.text": "SELECT 1"},
            )
            for _, _, _, record in drawn.records[-2:]:
                record.trace_state = state
        return drawn.batch()


def population(seed: int, count: int, keep_from_ms: float = 150.0) -> Population:
    """A sampler that keeps every request of 150 ms and more, and one in 16 of the others."""
    draws = random.Random(seed)
    durations = [draws.lognormvariate(3.5, 0.7) + 6 for _ in range(count)]
    states = [ALL if took >= keep_from_ms else ONE_IN_16 if draws.random() < 1 / 16 else None for took in durations]
    return Population(durations, states)


def test_percentiles_are_those_of_all_requests_not_of_the_kept_ones() -> None:
    made = population(1, 12_000)
    kept = [round(took * MS) for took, state in zip(made.durations_ms, made.states, strict=True) if state]
    with stored([made.batch()]) as spans:
        assert is_sampled(spans)
        row = endpoint_row(spans, "shop", "GET /")
        assert row is not None
        assert [row] == endpoint_rows(spans)
        [total] = endpoint_totals(spans)
    everyone = sorted(round(took * MS) for took in made.durations_ms)
    for found in (row.p50, row.p95, row.p99):
        true_ns = quantile(everyone, found.q).value_ns
        assert found.low_ns is not None
        assert found.high_ns is not None
        assert true_ns is not None
        assert found.low_ns <= true_ns <= found.high_ns
        # Of the kept ones alone p50 would be p93.
        naive_ns = quantile(sorted(kept), found.q).value_ns
        assert naive_ns is not None
        assert naive_ns > found.high_ns
    assert row.count == len(kept)
    assert row.adjusted_count == pytest.approx(12_000, rel=0.05)
    assert row.total_ns == total.total_ns == pytest.approx(sum(everyone), rel=0.05)
    assert row.rate_per_s == pytest.approx(row.adjusted_count / 120, rel=0.01)


def test_kept_requests_are_worth_as_many_equal_ones() -> None:
    """Brute force: each value as often as it stands for, whole numbers."""
    draws = random.Random(3)
    values = [draws.lognormvariate(3, 1) for _ in range(900)]
    weights = [draws.choice([1, 4, 16]) for _ in values]
    repeated = np.repeat(values, weights)
    for found in quantiles_of_kept(np.array(values) * MS, np.array(weights, dtype=float), (0.5, 0.95, 0.99)):
        assert found.value_ns == pytest.approx(np.quantile(repeated, found.q) * MS, rel=0.02)


def test_equal_weights_change_nothing() -> None:
    draws = random.Random(4)
    values = sorted(round(draws.expovariate(1e-7)) for _ in range(2_000))
    for q in (0.5, 0.95, 0.99, 0.999):
        [found] = quantiles_of_kept(np.array(values, dtype=float), np.full(2_000, 7.0), (q,))
        plain = quantile(values, q)
        assert (found.q, found.count, found.low_ns, found.high_ns) == (q, 2_000, plain.low_ns, plain.high_ns)
        assert plain.value_ns is not None
        assert found.value_ns == pytest.approx(plain.value_ns, abs=1)


@pytest.mark.parametrize("keep_from", [60.0, 120.0, 1e9])
def test_the_interval_holds_the_true_percentile(keep_from: float) -> None:
    """A sampler that keeps slow requests, 1 in 10 of the others; the last keeps all alike."""
    random_numbers = np.random.default_rng(11)
    truths = {0.5: np.exp(3), 0.95: np.exp(3 + 1.6449 * 0.8), 0.99: np.exp(3 + 2.3263 * 0.8)}
    held = dict.fromkeys(truths, 0)
    for _ in range(200):
        values = random_numbers.lognormal(3, 0.8, 6_000)
        slow = values >= keep_from
        kept = slow | (random_numbers.random(6_000) < 0.1)
        weights = np.where(slow, 1.0, 10.0)[kept]
        for found in quantiles_of_kept(values[kept] * MS, weights, tuple(truths)):
            assert found.low_ns is not None
            assert found.high_ns is not None
            held[found.q] += found.low_ns <= truths[found.q] * MS <= found.high_ns
    # Binomial(200, 0.95) is below 180 in 0.1 % of runs.
    assert min(held.values()) >= 180


def test_one_threshold_for_all_scales_rates_and_changes_no_percentile() -> None:
    made = population(5, 1_500)
    plain, kept = (Population(made.durations_ms, [state] * 1_500) for state in ("", "ot=th:c"))
    with stored([plain.batch()]) as spans:
        before = endpoint_report(spans, "shop", "GET /")
        assert not is_sampled(spans)
        assert not before.row.sampled
    with stored([kept.batch()]) as spans:
        after = endpoint_report(spans, "shop", "GET /")
    assert after.row.sampled
    assert after.row.count == before.row.count
    assert after.row.rate_per_s == pytest.approx(4 * before.row.rate_per_s)
    assert after.row.total_ns == 4 * before.row.total_ns
    for name in ("p50", "p95", "p99"):
        one, other = getattr(before.row, name), getattr(after.row, name)
        assert (one.low_ns, one.high_ns) == (other.low_ns, other.high_ns)
        assert other.value_ns == pytest.approx(one.value_ns, abs=1)
    assert (after.sentence, after.ledger, after.path) == (before.sentence, before.ledger, before.path)
    for one_ns, other_ns in zip(before.series.p95_ns, after.series.p95_ns, strict=True):
        assert (other_ns is None) == (one_ns is None)
        assert other_ns is None or other_ns == pytest.approx(one_ns, abs=1)
    [note] = set(after.trust) - set(before.trust)
    assert note == (
        "A sampler kept one request in 4 (ot=th in the trace state). Counts are of the requests that were kept; they "
        "stand for about 6\u2009000."
    )


def test_the_tail_is_that_of_all_requests() -> None:
    """Population known: the report on the sampled part must say what the report on all of it says."""
    made = population(7, 16_000)
    with stored([Population(made.durations_ms, [""] * 16_000).batch()]) as spans:
        whole = endpoint_report(spans, "shop", "GET /")
    with stored([made.batch()]) as spans:
        part = endpoint_report(spans, "shop", "GET /")
        sample = sample_endpoint(spans, "shop", "GET /")
    assert part.tail_quantile == 0.99
    assert part.tail_from_ns == pytest.approx(whole.tail_from_ns, rel=0.05)
    assert part.body_low_ns == pytest.approx(whole.body_low_ns, rel=0.1)
    for row in whole.category_rows:
        [same] = [one for one in part.category_rows if one.category == row.category]
        assert same.tail_mean_ns == pytest.approx(row.tail_mean_ns, rel=0.1)
        assert same.difference_low_ns <= row.difference_ns <= same.difference_high_ns
    assert "a normal one for 16 in the mean" in part.trust[-1]
    assert sample is not None
    assert {request.adjusted_count for request in sample.body} == {16.0}
    assert sum(request.weight for request in sample.requests) == pytest.approx(part.row.adjusted_count, rel=0.05)


def test_over_time_percentiles_are_those_of_all_requests() -> None:
    made = population(9, 24_000)
    with stored([made.batch()]) as spans:
        series = latency_series(spans, "shop", "GET /", buckets=4)
    looked_at = 0
    for start_ns, found_ns, count in zip(series.start_ns, series.p95_ns, series.count, strict=True):
        first, last = (round((at - EPOCH_NS) / MS / 10) for at in (start_ns, start_ns + series.bucket_ns))
        everyone, states = made.durations_ms[max(first, 0) : last], made.states[max(first, 0) : last]
        kept = [took for took, state in zip(everyone, states, strict=True) if state]
        assert count == len(kept)
        if len(everyone) < 5_000:
            continue
        looked_at += 1
        assert found_ns is not None
        # A share of 0.95 of some 330 kept requests that stand for 16 each is right to within 0.024.
        low, high = np.quantile(everyone, (0.926, 0.974)) * MS
        assert low <= found_ns <= high < np.quantile(kept, 0.95) * MS
    assert looked_at >= 3


def cohort(counts: Sequence[float]) -> list[float]:
    """The adjusted counts of those that stay, of a cohort with these."""
    drawn = Drawn()
    for number in range(len(counts)):
        drawn.add("shop", "GET /", number * 100, number * 100 + 50, kind=Kind.SERVER, trace=number + 1)
    for (_, _, _, record), count in zip(drawn.records, counts, strict=True):
        record.trace_state = {1.0: ALL, 16.0: ONE_IN_16}[count]
    with stored([drawn.batch()]) as spans:
        sample = sample_endpoint(spans, "shop", "GET /")
        assert sample is not None
        return [request.adjusted_count for request in equally_likely(sample.requests)]


def test_shares_are_taken_of_requests_that_were_sampled_alike() -> None:
    assert cohort([16.0] * 50) == [16.0] * 50
    mixed = cohort([1.0, 16.0] * 160)
    assert mixed.count(16.0) == 160
    # Of 160 that stand for themselves 10 stay; Binomial(160, 1/16) is outside of 3 to 20 in 0.3 % of draws.
    assert 3 <= mixed.count(1.0) <= 20


def test_draws_and_regions_count_what_requests_stand_for() -> None:
    made = population(13, 12_000)
    with stored([made.batch()]) as spans:
        [drawn] = draw_requests(spans, {("shop", "GET /"): 1.0})
        assert {one.adjusted_count for one in drawn.rows} == {1.0, 16.0}
        region = sample_region(spans, "shop", "GET /", Region(low_ns=100 * MS))
    slow = [took for took in made.durations_ms if took >= 100]
    assert mean_duration_ns(region.tail) == pytest.approx(sum(slow) / len(slow) * MS, rel=0.1)


def test_any_threshold_and_duration_can_be_added_up() -> None:
    """A request of 290 years that stands for 7e16 others, three hundred times: more than 128 bits hold."""
    drawn = Drawn()
    for number in range(300):
        drawn.add("shop", "GET /", number, number + 1, kind=Kind.SERVER, trace=number + 1)
        record = drawn.records[-1][3]
        record.trace_state, record.start_ns, record.end_ns = "ot=th:ffffffffffffff", number + 1, 2**63 - 1
    with stored([drawn.batch()]) as spans:
        [row] = endpoint_rows(spans)
        [total] = endpoint_totals(spans)
    assert row.count == 300
    assert row.total_ns == total.total_ns == pytest.approx(1e37)
