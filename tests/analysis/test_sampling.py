"""Upstream sampling: the specification's thresholds, and what a page says of them."""

from __future__ import annotations

import random

import pytest

from analysis.contrast_facts import facts_of
from analysis.sample import sample_endpoint
from analysis.sampling import adjusted_count, sampling_note
from analysis.span import Kind
from analysis.tail import endpoint_report
from tests.stored import Drawn, stored


@pytest.mark.parametrize(
    ("trace_state", "count"),
    [
        # The specification's own: th:c is 25 %, th:8 half, th:0 all, th:fd70a4 about one in a hundred.
        ("ot=th:c", 4),
        ("ot=th:8", 2),
        ("ot=th:0", 1),
        ("ot=th:fd70a4", pytest.approx(100, rel=1e-4)),
        ("ot=rv:abcdefabcdefab;th:c", 4),
        ("vendor=x, ot=th:8;rv:00000000000000", 2),
        ("", None),
        ("vendor=th:8", None),
        ("ot=rv:00000000000000", None),
        ("ot=th:", None),
        ("ot=th:xyz", None),
        ("ot=th:C", None),
        ("ot=th:123456789012345", None),
        ("ot=th:ffffffffffffff", 16**14),
    ],
)
def test_thresholds(trace_state: str, count: object) -> None:
    assert adjusted_count(trace_state) == count


def test_what_is_said_depends_on_whether_all_are_alike() -> None:
    assert sampling_note([None, None], [None]) == ""
    assert sampling_note([1.0], [1.0]) == ""
    assert "one request in 4 " in sampling_note([4.0] * 3, [4.0] * 5)
    unequal = sampling_note([1.0, 1.0], [100.0, 100.0])
    assert "a slow one stands for 1, a normal one for 100" in unequal
    assert "say so" not in unequal
    partly = sampling_note([None, 4.0], [4.0, 4.0])
    assert "a slow one stands for 2.5, a normal one for 4" in partly
    assert "75 % of the requests say so" in partly


def test_the_endpoint_says_so() -> None:
    draws = random.Random(1)
    drawn = Drawn()
    for number in range(100):
        drawn.add(
            "shop", "GET /", number * 100, number * 100 + draws.uniform(10, 90), kind=Kind.SERVER, trace=number + 1
        )
    for _, _, _, record in drawn.records:
        record.trace_state = "ot=th:c"
    with stored([drawn.batch()]) as spans:
        assert any("one request in 4 " in note for note in endpoint_report(spans, "shop", "GET /").trust)
        sample = sample_endpoint(spans, "shop", "GET /")
        assert sample is not None
        assert {facts.adjusted_count for facts in facts_of(spans, sample.requests)} == {4.0}
