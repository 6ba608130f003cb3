"""Changes of level: found where they were made, and not where there are none."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from analysis.change import level_changes
from analysis.ledger import Category
from analysis.span import Kind
from analysis.tail import endpoint_report
from app.otlp.columns import Batch
from tests.stored import Drawn, stored

MS = 1_000_000


def noisy(levels: list[float], each: int, spread: float, seed: int) -> list[float | None]:
    """Medians of buckets, each level for `each` buckets, with lognormal noise."""
    draws = np.random.default_rng(seed)
    return [level * MS * float(draws.lognormal(0, spread)) for level in levels for _ in range(each)]


def test_a_step_is_found_at_its_bucket_with_its_levels() -> None:
    hits = more = 0
    for seed in range(40):
        found = level_changes(noisy([40, 60], 30, 0.1, seed))
        bucket, before, after = min(found, key=lambda one: abs(one[0] - 30))
        hits += abs(bucket - 30) <= 1
        more += len(found) - 1
        assert before / MS == pytest.approx(40, rel=0.1)
        assert after / MS == pytest.approx(60, rel=0.1)
    assert hits >= 38
    # Both sides are looked at again, each with one chance in a thousand.
    assert more <= 1


def test_up_and_down_again_are_two_changes() -> None:
    found = level_changes(noisy([20, 50, 20], 20, 0.1, 3))
    assert [(bucket, before < after) for bucket, before, after in found] == [(20, True), (40, False)]


def test_noise_has_no_change() -> None:
    # At p <= 0.001 for each of 400 series, 0.4 are expected.
    false = sum(bool(level_changes(noisy([40], 60, 0.5, seed))) for seed in range(400))
    assert false <= 3


def test_neither_a_spike_nor_a_small_step_nor_few_buckets_count() -> None:
    spike = noisy([40], 60, 0.02, 1)
    spike[30] = spike[31] = 4_000.0 * MS
    assert level_changes(spike) == []
    assert level_changes(noisy([40, 41], 30, 0.001, 1)) == []
    assert level_changes(noisy([1, 2], 30, 0.1, 1)) == []
    assert level_changes(noisy([40, 400], 9, 0.1, 1)) == []


def test_buckets_without_a_value_are_passed_over() -> None:
    values = noisy([40, 80], 30, 0.1, 5)
    holes: list[float | None] = [None if place % 3 == 1 else value for place, value in enumerate(values)]
    ((bucket, _, _),) = level_changes(holes)
    assert bucket in (30, 32)
    assert level_changes([None] * 60) == []
    assert level_changes([5.0 * MS] * 60) == []
    draws = random.Random(2)
    assert level_changes([draws.choice([5.0, 10.0]) * MS for _ in range(60)]) == []


def traffic(wait: Callable[[float], float]) -> Batch:
    """Ten minutes of requests; how long each waits for its database depends on the second in which it starts.

    Version 2 runs from the 295th second on.
    """
    draws = random.Random(11)
    drawn = Drawn(versions={"old": "1.9", "new": "2.0"})
    for number in range(6_000):
        at = number * 0.1
        start, waited = at * 1_000, wait(at)
        end = start + 10 + waited + draws.uniform(5, 8)
        instance = "new" if at >= 295 else "old"
        root = drawn.add("shop", "GET /", start, end, kind=Kind.SERVER, trace=number + 1, instance=instance)
        drawn.add(
            "shop",
            "SELECT 1",
            start + 2,
            start + 4 + waited,
            parent=root,
            trace=number + 1,
            instance=instance,
            attributes={"db.system": "postgresql", "db.statement": "select x from y where id = 7"},
        )
    return drawn.batch()


def test_the_change_names_what_grew() -> None:
    with stored([traffic(lambda at: 60.0 if at >= 300 else 1.0)]) as spans:
        report = endpoint_report(spans, "shop", "GET /")
    (change,) = report.changes
    assert abs(change.at_ns - report.series.start_ns[0] - 300 * 10**9) <= 2 * report.series.bucket_ns
    assert change.grew
    assert change.versions == ("shop 2.0",)
    assert change.category == Category.DATABASE
    assert change.label.startswith("shop → postgresql")
    assert change.growth_ns / MS == pytest.approx(59, rel=0.05)
    assert change.suspect is not None
    assert change.suspect.service == "shop"
    assert (change.after_ns - change.before_ns) / MS == pytest.approx(59, rel=0.05)


def test_steady_traffic_has_no_change() -> None:
    with stored([traffic(lambda at: 3.0)]) as spans:
        assert endpoint_report(spans, "shop", "GET /").changes == ()


@pytest.mark.parametrize("service", ["stock", "price"])
def test_the_change_points_to_the_service_at_fault(service: str) -> None:
    draws = random.Random(5)
    drawn = Drawn()
    for number in range(1_500):
        late = number >= 700
        start = at = number * 400.0
        root_id = len(drawn.records) + 1
        calls = {"stock": draws.uniform(8, 12), "price": draws.uniform(8, 12)}
        calls[service] += 40 if late else 0
        end = start + sum(calls.values()) + 6
        drawn.add("shop", "GET /", start, end, kind=Kind.SERVER, trace=number + 1)
        for callee, took in calls.items():
            client = drawn.add("shop", f"ask {callee}", at + 1, at + 2 + took, parent=root_id, trace=number + 1)
            drawn.add(
                callee,
                "answer",
                at + 1.5,
                at + 1.5 + took,
                kind=Kind.SERVER,
                parent=client,
                remote=True,
                trace=number + 1,
            )
            at += took + 2
    with stored([drawn.batch()]) as spans:
        (change,) = endpoint_report(spans, "shop", "GET /").changes
    assert change.suspect is not None
    assert change.suspect.service == service
    assert change.suspect.cost_ns / MS == pytest.approx(40, rel=0.05)
    assert change.category == Category.OWN_CODE
    assert change.label == service
