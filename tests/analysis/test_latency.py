"""Endpoint quantiles against brute force, and their course over time."""

from __future__ import annotations

import math
import random
from collections import defaultdict

import pytest

from analysis.grouped import bucket_size_ns, bucket_starts_ns, group_quantiles
from analysis.latency import endpoint_row, endpoint_rows, heat_map, latency_series
from analysis.quantiles import interval_ranks, sample_quantile
from analysis.reports import EndpointRow
from analysis.span import Kind, Window
from tests.captures import (
    DATA,
    batch_of,
    capture,
    capture_requests,
    json_lines,
    needs_captures,
    needs_onlineboutique,
)
from tests.stored import MS, Drawn, stored, whole_window

QS = (0.5, 0.95, 0.99, 0.999)


def assert_equals_brute_force(row: EndpointRow, durations: list[int]) -> None:
    durations.sort()
    assert row.count == len(durations)
    assert row.total_ns == sum(durations)
    for q, quantile in zip(QS, (row.p50, row.p95, row.p99, row.p999), strict=True):
        # Interpolated by hand, in whole numbers: position (n - 1) q, thousandths exact.
        thousandths = (len(durations) - 1) * round(q * 1000)
        below, part = divmod(thousandths, 1000)
        above = min(below + 1, len(durations) - 1)
        exact = durations[below] + (durations[above] - durations[below]) * part / 1000
        assert quantile.value_ns is not None
        assert abs(quantile.value_ns - exact) <= 1
        assert abs(quantile.value_ns - sample_quantile(durations, q)) <= 1
        ranks = interval_ranks(len(durations), q)
        expected = (durations[ranks[0] - 1], durations[ranks[1] - 1]) if ranks else (None, None)
        assert (quantile.low_ns, quantile.high_ns) == expected
        assert (quantile.q, quantile.count) == (q, len(durations))


@needs_captures
@pytest.mark.parametrize("scenario", ["07_db_pool", "17c_sync_def_threadpool", "16_semaphore", "17_loop_block"])
def test_endpoints_equal_brute_force_over_the_raw_file(scenario: str) -> None:
    expected: dict[tuple[str, str], list[int]] = defaultdict(list)
    for request in capture_requests(scenario):
        for resource_spans in request.resource_spans:
            names = {pair.key: pair.value.string_value for pair in resource_spans.resource.attributes}
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    if span.kind == Kind.SERVER:
                        duration_ns = span.end_time_unix_nano - span.start_time_unix_nano
                        expected[names["service.name"], span.name].append(duration_ns)
    with capture(scenario) as spans:
        rows = endpoint_rows(spans)
        assert [endpoint_row(spans, row.service, row.endpoint) for row in rows] == rows
        assert endpoint_row(spans, rows[0].service, "GET /nothing") is None
    assert {(row.service, row.endpoint) for row in rows} == set(expected)
    for row in rows:
        assert_equals_brute_force(row, expected[row.service, row.endpoint])
    assert [row.total_ns for row in rows] == sorted((row.total_ns for row in rows), reverse=True)


@needs_onlineboutique
def test_healthy_shop_equals_an_independent_computation() -> None:
    requests = list(json_lines(DATA / "onlineboutique" / "c0822.jsonl.gz"))
    batch = batch_of(requests)
    expected: dict[tuple[str, str], dict[tuple[bytes, bytes, int], int]] = defaultdict(dict)
    services: dict[tuple[bytes, bytes], str] = {}
    all_spans = [
        ({pair.key: pair.value.string_value for pair in group.resource.attributes}["service.name"], span)
        for request in requests
        for group in request.resource_spans
        for scope_spans in group.scope_spans
        for span in scope_spans.spans
    ]
    for service, span in all_spans:
        services[span.trace_id, span.span_id] = service
    for service, span in all_spans:
        parent_service = services.get((span.trace_id, span.parent_span_id))
        entry = span.kind in (Kind.SERVER, Kind.CONSUMER) or (
            span.kind not in (Kind.CLIENT, Kind.PRODUCER) and parent_service != service
        )
        if entry:
            # The source repeats rows; equal content is one span.
            key = (span.trace_id, span.span_id, hash(span.SerializeToString(deterministic=True)))
            duration_ns = max(0, span.end_time_unix_nano - span.start_time_unix_nano)
            expected[service, span.name][key] = duration_ns
    with stored([batch]) as spans:
        rows = {(row.service, row.endpoint): row for row in endpoint_rows(spans)}
    assert set(rows) == set(expected)
    assert sum(row.count for row in rows.values()) > 5_000
    for endpoint, durations in expected.items():
        assert_equals_brute_force(rows[endpoint], list(durations.values()))


def _random_requests(count: int, seed: int) -> tuple[Drawn, list[int]]:
    chance = random.Random(seed)
    drawn, durations = Drawn(), []
    for number in range(count):
        start = number * 10.0
        end = start + math.exp(chance.gauss(3, 1))
        drawn.add("shop", "GET /cart", start, end, kind=Kind.SERVER, trace=number + 1)
        record = drawn.records[-1][3]
        durations.append(record.end_ns - record.start_ns)
    return drawn, durations


@pytest.mark.parametrize("count", [1, 2, 3, 71, 72, 73, 367, 368, 369, 1500])
def test_intervals_at_the_edges(count: int) -> None:
    drawn, durations = _random_requests(count, count)
    with stored([drawn.batch()]) as spans:
        (row,) = endpoint_rows(spans)
    assert_equals_brute_force(row, durations)
    assert row.p95.trusted == (count >= 72)
    assert row.p99.trusted == (count >= 368)


def test_engine_quantile_is_sample_quantile() -> None:
    drawn, durations = _random_requests(257, 7)
    durations.sort()
    with stored([drawn.batch()]) as spans:
        for q in (0.0, 0.01, 0.25, 1 / 3, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0):
            ((value,),) = spans.rows(f"select {spans.quantile('duration_ns', q)} as value from spans order by value")
            assert round(value) == sample_quantile(durations, q)


def test_sparkline_and_rate() -> None:
    drawn = Drawn()
    for number in range(24):
        for copy in range(2):
            start = number * 1000.0 + copy
            drawn.add("shop", "GET /", start, start + number + 1 + copy, kind=Kind.SERVER, trace=number * 2 + copy + 1)
    batch = drawn.batch()
    first = whole_window([batch]).start_ns
    with stored([batch], Window(first, first + 24_000 * MS)) as spans:
        (row,) = endpoint_rows(spans)
    assert row.sparkline == tuple((number + 2) * MS for number in range(24))
    assert row.rate_per_s == pytest.approx(2)
    with stored([batch], Window(first, first + 48_000 * MS)) as spans:
        (row,) = endpoint_rows(spans)
    assert row.sparkline[12:] == (0,) * 12


def test_series_keeps_empty_buckets_and_hides_quantiles_of_few() -> None:
    drawn = Drawn()
    for number in range(100):
        drawn.add("shop", "GET /", number, number + 1.0 + number, kind=Kind.SERVER, trace=number + 1)
    for number in range(20):
        start = 5_000 + number
        drawn.add("shop", "GET /", start, start + 3, kind=Kind.SERVER, trace=200 + number, error="ValueError")
    drawn.add("shop", "GET /", 9_000, 9_004, kind=Kind.SERVER, trace=300)
    drawn.add("shop", "GET /other", 9_000, 9_900, kind=Kind.SERVER, trace=301)
    with stored([drawn.batch()]) as spans:
        series = latency_series(spans, "shop", "GET /")
    assert series.bucket_ns == 1_000_000_000
    assert all(start % series.bucket_ns == 0 for start in series.start_ns)
    assert series.count == (100, 0, 0, 0, 0, 20, 0, 0, 0, 1)
    assert series.errors == (0, 0, 0, 0, 0, 20, 0, 0, 0, 0)
    assert series.p50_ns == (50_500_000, None, None, None, None, 3 * MS, None, None, None, 4 * MS)
    assert [value is not None for value in series.p95_ns] == [count >= 20 for count in series.count]
    assert [value is not None for value in series.p99_ns] == [count >= 100 for count in series.count]


@pytest.mark.parametrize("spread", [1.0, 5.0, 5_000.0, 10_000_000.0])
def test_heat_map_holds_every_request_in_its_bucket(spread: float) -> None:
    chance = random.Random(11)
    drawn = Drawn()
    for number in range(300):
        start = number * 33.0
        drawn.add("shop", "GET /", start, start + spread ** chance.random(), kind=Kind.SERVER, trace=number + 1)
    batch = drawn.batch()
    durations = batch.spans.column("duration_ns").to_pylist()
    with stored([batch]) as spans:
        heat = heat_map(spans, "shop", "GET /")
    assert len(heat.edges_ns) == len(heat.counts) + 1 <= 33
    assert list(heat.edges_ns) == sorted(set(heat.edges_ns))
    for low, high, row in zip(heat.edges_ns, heat.edges_ns[1:], heat.counts, strict=False):
        assert sum(row) == sum(low <= duration < high for duration in durations)
    assert sum(map(sum, heat.counts)) == 300


def test_heat_map_of_instant_requests() -> None:
    drawn = Drawn()
    drawn.add("shop", "GET /", 0, 0, kind=Kind.SERVER)
    with stored([drawn.batch()]) as spans:
        heat = heat_map(spans, "shop", "GET /")
        nothing = heat_map(spans, "shop", "GET /unknown")
    assert sum(map(sum, heat.counts)) == 1
    assert sum(map(sum, nothing.counts)) == 0


@pytest.mark.parametrize(
    ("seconds", "bucket_s"),
    [
        (0, 1),
        (1, 1),
        (60, 1),
        (61, 2),
        (300, 5),
        (3600, 60),
        (86_400, 1800),
        (86_400 * 60, 86_400),
        (86_400 * 700, 86_400 * 12),
    ],
)
def test_buckets_are_round(seconds: int, bucket_s: int) -> None:
    assert bucket_size_ns(seconds * 10**9, 60) == bucket_s * 10**9


def test_buckets_are_aligned() -> None:
    assert bucket_starts_ns(17, 31, 10) == (10, 20, 30)
    assert bucket_starts_ns(20, 20, 10) == (20,)
    assert bucket_starts_ns(20, 30, 10) == (20,)


def test_groups_of_nothing() -> None:
    drawn = Drawn()
    drawn.add("shop", "GET /", 0, 1)
    with stored([drawn.batch()]) as spans:
        assert endpoint_rows(spans) == []
        source = "select service as first, name as second, duration_ns as value_ns, 0 as failed from requests"
        assert group_quantiles(spans, source) == {}
