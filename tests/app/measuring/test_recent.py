"""Counts by the second: nothing lost, nothing kept for longer than the window."""

from __future__ import annotations

from app.measuring.recent import RecentCounts
from tests.app.measuring.test_durations import Clock

NOW_NS = 1_763_900_000_500_000_000


def test_counts_land_in_their_step_and_add_up() -> None:
    clock = Clock()
    recent = RecentCounts(("stored", "refused"), 600, clock)
    recent.add(stored=5)
    clock.now_s += 10
    recent.add(stored=7, refused=1)
    recent.add(stored=1)
    series = recent.series(10, NOW_NS)
    assert (series.window_s, len(series.start_ns)) == (600, 60)
    assert series.counts["stored"][-2:] == (5, 8)
    assert (series.total("stored"), series.total("refused")) == (13, 1)
    # The step that ends now ends with the second that is running.
    assert series.start_ns[-1] + 10 * 10**9 == 1_763_900_001_000_000_000
    assert series.start_ns[1] - series.start_ns[0] == 10 * 10**9


def test_what_is_older_than_the_window_is_gone() -> None:
    clock = Clock()
    recent = RecentCounts(("stored",), 600, clock)
    recent.add(stored=1)
    clock.now_s += 599
    assert recent.series(10, NOW_NS).counts["stored"][0] == 1
    clock.now_s += 1
    assert recent.series(10, NOW_NS).total("stored") == 0
    for _ in range(5_000):
        clock.now_s += 1
        recent.add(stored=1)
    assert recent.series(10, NOW_NS).total("stored") == 600
    assert len(recent._kept) == 600


def test_a_part_of_the_steps() -> None:
    recent = RecentCounts(("stored",), 600, Clock())
    recent.add(stored=3)
    series = recent.series(10, NOW_NS)
    shorter = series.since(NOW_NS - 95 * 10**9, 5)
    assert (len(shorter.start_ns), shorter.total("stored")) == (10, 3)
    assert len(series.since(NOW_NS, 5).start_ns) == 5
    assert series.since(0, 5) == series
