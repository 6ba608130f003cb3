"""The tail of an endpoint explained: the injected cause first, with the right size; healthy data has no cause."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from analysis.endpoint_reports import EndpointReport
from analysis.errors import NotFound
from analysis.fixes import fixes
from analysis.ledger import Category
from analysis.queueing import queue_waits
from analysis.span import Kind
from analysis.tail import endpoint_report
from analysis.wording import duration_text
from app.otlp.columns import Batch
from tests.stored import Drawn, sketched_batch, stored

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
def mixed(count: int, slow_share: float, wait_ms: float) -> Batch:
    draws = random.Random(3)
    return sketched_batch(
        drawn(wait_ms if draws.random() < slow_share else 0, round(draws.uniform(10, 20), 3)) for _ in range(count)
    )


@lru_cache
def report_on(batch: Batch, endpoint: str = "GET /cart") -> EndpointReport:
    with stored([batch]) as spans:
        return endpoint_report(spans, "gateway", endpoint)


def test_two_per_cent_that_wait_300_ms_are_named_first_with_the_right_size() -> None:
    report = report_on(mixed(2000, 0.02, 300))
    first = report.category_rows[[row.category for row in report.category_rows].index(Category.POOL)]
    assert first.difference_low_ns <= 300e6 <= first.difference_high_ns + 1e6
    assert report.ledger[0].category == Category.POOL
    assert report.ledger[0].label == "orders: pool of postgresql app"
    # No normal request waits, so that 0.5 ms is the whole measure of what is usual.
    assert report.ledger[0].z == pytest.approx(first.difference_ns / 0.5e6, rel=0.01)
    database = next(row for row in report.ledger if row.category == Category.DATABASE)
    assert abs(database.z) < 3
    assert "waiting for a connection (orders: pool of postgresql app)" in report.sentence
    assert report.sentence.startswith("1 % of requests take longer than")
    assert report.tail_quantile == 0.99
    assert report.sampled_tail == 20
    assert report.row.wait_share == pytest.approx(40 * 300 / (40 * 300 + 2000 * 29), rel=0.4)


def test_healthy_load_yields_no_cause() -> None:
    report = report_on(mixed(1500, 0.0, 0))
    assert "an ordinary spread, in which no place stands out" in report.sentence
    assert "they spend" not in report.sentence
    assert all(row.far_share < 0.5 for row in report.ledger)
    assert "waiting" not in report.sentence
    with stored([mixed(1500, 0.0, 0)]) as spans:
        assert fixes(spans).findings == ()


def test_few_requests_get_no_verdict_and_no_p99() -> None:
    report = report_on(mixed(20, 0.2, 300))
    assert "too few to tell" in report.sentence
    assert not report.row.p99.trusted
    assert any("too few for a p99" in note for note in report.trust)


def test_differences_add_up_to_the_difference_of_the_cohorts() -> None:
    report = report_on(mixed(1500, 0.05, 200))
    by_category = sum(row.difference_ns for row in report.category_rows)
    by_label = sum(row.difference_ns for row in report.ledger)
    assert by_category == pytest.approx(by_label, abs=len(report.ledger) + len(report.category_rows))
    tails = [row for row in report.exemplars if row.label == "slowest"]
    assert tails[0].duration_ns >= report.tail_from_ns


def test_exemplars_sit_at_their_quantiles() -> None:
    report = report_on(mixed(1500, 0.05, 200))
    at = {exemplar.label: exemplar.duration_ns for exemplar in report.exemplars}
    assert report.row.p50.value_ns is not None
    assert report.row.p99.value_ns is not None
    assert at["p50"] == pytest.approx(report.row.p50.value_ns, rel=0.01)
    assert at["p99"] == pytest.approx(report.row.p99.value_ns, rel=0.05)
    assert at["slowest"] >= at["p99"]


def test_the_same_data_gives_the_same_report_whatever_the_order() -> None:
    batch = mixed(700, 0.05, 200)
    shuffled = batch.spans.take(np.random.default_rng(1).permutation(batch.span_count))
    with stored([batch]) as spans:
        first = endpoint_report(spans, "gateway", "GET /cart")
    with stored([replace(batch, spans=shuffled)]) as spans:
        assert endpoint_report(spans, "gateway", "GET /cart") == first
    with stored([batch, batch]) as spans:
        assert endpoint_report(spans, "gateway", "GET /cart") == first


def test_an_endpoint_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="no request to gateway GET /nowhere"):
        report_on(mixed(3, 0, 0), endpoint="GET /nowhere")


def test_gain_of_a_pool_reaches_the_caller_and_is_a_floor() -> None:
    with stored([mixed(2000, 0.02, 300)]) as spans:
        found = fixes(spans)
    assert [finding.detector for finding in found.findings] == ["pool-wait"]
    gains = {(gain.service, gain.endpoint): gain for gain in found.findings[0].gains}
    assert set(gains) == {("gateway", "GET /cart"), ("orders", "GET /order")}
    for gain in gains.values():
        assert gain.bound == "at least"
        assert gain.p99_saved_ns == pytest.approx(300e6, rel=0.05)
        assert gain.p99_saved_low_ns is not None
        assert gain.p99_saved_low_ns <= gain.p99_saved_ns <= (gain.p99_saved_high_ns or 0)
    assert {profile.endpoint for profile in found.profiles} == {"GET /cart", "GET /order", "GET /report"}
    assert found.profiles[0].wait_share + found.profiles[0].work_share + found.profiles[0].waste_share <= 1.0001


def test_messages_say_how_long_they_waited_in_their_queue() -> None:
    texts = [
        f"""
    api  POST /orders  0..10
      api  send mail  2..4 producer
        worker  run/mail  {4 + 50 * (n % 10)}..{34 + 50 * (n % 10)} consumer
    """
        for n in range(100)
    ]
    with stored([sketched_batch(texts)]) as spans:
        report = endpoint_report(spans, "worker", "run/mail")
        assert endpoint_report(spans, "api", "POST /orders").before == ""
    assert report.before.startswith("Before any of this, the message waits in its queue: 225 ms in the median, 450 ms")


def test_the_wait_before_a_sampled_endpoint_is_that_of_all_messages() -> None:
    texts = [
        f"""
    api  POST /orders  0..10
      api  send mail  2..4 producer
        worker  run/mail  {4 + wait}..{34 + wait + number % 7} consumer
    """
        for number in range(500)
        for wait in [(number * number) % 997]
    ]
    with stored([sketched_batch(texts)]) as spans:
        report = endpoint_report(spans, "worker", "run/mail")
        (row,) = queue_waits(spans).rows
    assert report.sampled_tail + report.sampled_body < 500
    assert report.before.startswith(
        f"Before any of this, the message waits in its queue: {duration_text(row.p50.value_ns or 0)} in the median, "
        f"{duration_text(row.p95.value_ns or 0)} at p95."
    )


def test_time_between_two_services_reads_as_such() -> None:
    drawn = Drawn()
    for number in range(200):
        late, at, http = 40 if number % 10 == 0 else 0, 1000 * number, {"http.request.method": "GET"}
        root = drawn.add("gateway", "GET /cart", at, at + 20 + late, kind=Kind.SERVER, trace=number + 1)
        call = drawn.add("gateway", "GET", at + 2, at + 15 + late, parent=root, trace=number + 1, attributes=http)
        drawn.add("stock", "GET /x", at + 3, at + 14, kind=Kind.SERVER, parent=call, remote=True, trace=number + 1)
    assert "40.0 ms more between gateway and stock, outside both services' spans" in report_on(drawn.batch()).sentence


def test_the_overview_shows_the_shares_of_the_endpoint_s_page() -> None:
    batch = mixed(200, 0.1, 300)
    row = report_on(batch).row
    with stored([batch]) as spans:
        [profile] = [each for each in fixes(spans).profiles if each.service == "gateway"]
    assert profile.sampled == row.count
    shares = (profile.work_share, profile.wait_share, profile.waste_share)
    assert shares == pytest.approx((row.work_share, row.wait_share, row.waste_share))
    assert row.wait_share is not None
    assert row.wait_share > 0.3
