"""Sets of hashes over columns do what Python's sets do, and recent spans never call a new one known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.store.duplicates import Hashes, HashSet, RecentSpans, first_of_each

# Few values, so that sets meet; and neighbours, which a bad hash would crowd in one place.
HASHES = st.integers(1, 300) | st.integers(1, 300).map(lambda low: low << 52) | st.integers(1, 2**64 - 1)


def hashes(values: list[int]) -> Hashes:
    return np.array(values, np.uint64)


@given(st.lists(st.lists(HASHES, max_size=60), max_size=12), st.integers(1, 100))
def test_a_set_of_hashes_is_a_set(added: list[list[int]], limit: int) -> None:
    ours, expected = HashSet(limit), set[int]()
    for values in added:
        new = [value for value in dict.fromkeys(values) if value not in expected]
        assert ours.known(hashes(values)).tolist() == [value in expected for value in values]
        ours.add(hashes(new))
        expected |= set(new)
        assert ours.count == len(expected)
        assert ours.known(hashes(sorted(expected))).all()


def test_a_set_grows_beyond_its_first_slots() -> None:
    ours, values = HashSet(200_000), np.random.default_rng(7).integers(1, 2**64, 200_000, np.uint64)
    for part in np.split(values, 20):
        assert not ours.known(part).any()
        ours.add(part)
    assert ours.known(values).all()
    assert not ours.known(values + np.uint64(1)).any()


@given(st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=9, unique=True), max_size=30), st.integers(1, 20))
def test_a_span_that_starts_late_enough_is_known_or_new_for_certain(added: list[list[int]], limit: int) -> None:
    recent, stored = RecentSpans(-1, limit), set[int]()
    for values in added:
        new = [value for value in values if value not in stored]
        # A hash is its own start time here.
        recent.add(hashes(new), np.array(new, np.int64))
        stored |= set(new)
        known = recent.known(hashes(list(range(1, 51)))).tolist()
        for value in range(1, 51):
            assert not known[value - 1] or value in stored
            if value > recent.complete_after_ns:
                assert known[value - 1] == (value in stored)


def test_recent_spans_forget() -> None:
    recent = RecentSpans(-1, 10)
    for first in range(1, 101, 5):
        recent.add(np.arange(first, first + 5, dtype=np.uint64), np.arange(first, first + 5))
    known = recent.known(np.arange(1, 101, dtype=np.uint64))
    assert 10 <= int(known.sum()) <= 20
    assert known[-10:].all()
    assert recent.complete_after_ns == 80


@pytest.mark.parametrize("values", [[], [1], [5, 5, 3, 5, 3]])
def test_the_first_of_equal_hashes(values: list[int]) -> None:
    assert first_of_each(hashes(values)).tolist() == [value not in values[:place] for place, value in enumerate(values)]
