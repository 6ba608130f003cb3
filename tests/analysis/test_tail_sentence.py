"""The sentence about a tail is quiet where requests only vary, and names what is added to a few of them."""

from __future__ import annotations

import random

import pytest

from analysis.span import Kind
from analysis.tail import endpoint_report
from tests.stored import Drawn, stored

PLACES = (("stock", 30.0), ("prices", 25.0), ("offers", 20.0), ("users", 15.0))


def sentence(seed: int, count: int, added_ms: float = 0.0, share: float = 0.0) -> str:
    """Of requests that wait for four databases, one after another; `added_ms` in the second for a share of them."""
    draws = random.Random(seed)
    drawn = Drawn()
    for number in range(count):
        late = draws.random() < share
        took = [draws.lognormvariate(0, 0.45) * median_ms for _, median_ms in PLACES]
        took[1] += added_ms if late else 0
        at = number * 1_000.0
        root = drawn.add("shop", "GET /", at, at + 10 + sum(took), kind=Kind.SERVER, trace=number + 1)
        at += 5
        for (name, _), each in zip(PLACES, took, strict=True):
            attributes = {"db.system.name": "postgresql", "db.query.text": f"SELECT * FROM {name}"}
            drawn.add("shop", "SELECT", at, at + each, parent=root, trace=number + 1, attributes=attributes)
            at += each
    with stored([drawn.batch()]) as spans:
        return endpoint_report(spans, "shop", "GET /").sentence


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [400, 1_200])
def test_requests_that_only_vary_have_no_cause(seed: int, count: int) -> None:
    said = sentence(seed, count)
    assert "an ordinary spread, in which no place stands out" in said
    assert "they spend" not in said


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("added_ms", [100.0, 150.0, 300.0])
def test_what_is_added_to_two_in_a_hundred_is_named_first(seed: int, added_ms: float) -> None:
    said = sentence(seed, 1_200, added_ms, 0.02)
    assert "FROM prices" in said.partition("they spend")[2].partition("of the difference")[0]
