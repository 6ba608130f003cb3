"""How the effort of looking at requests is spread over endpoints."""

from __future__ import annotations

import pytest

from analysis.draw import FULL_SAMPLE
from analysis.fixes import MAX_REQUESTS, sample_shares
from analysis.latency import EndpointTotal, endpoint_rows, endpoint_totals
from tests.stored import sketched_batch, stored


def total(number: int, total_ns: int) -> EndpointTotal:
    return EndpointTotal("api", f"GET /{number}", 1_000, total_ns)


def test_many_endpoints_share_the_effort_by_the_root_of_their_time() -> None:
    shares = list(sample_shares([total(number, 10**12 // (number + 1)) for number in range(12)]).values())
    assert sum(shares) * FULL_SAMPLE == pytest.approx(MAX_REQUESTS, rel=0.05)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] / shares[3] == pytest.approx(2)
    assert min(shares) >= 0.1


def test_few_endpoints_get_no_more_than_their_due() -> None:
    assert list(sample_shares([total(1, 10**9), total(2, 1)]).values()) == [0.6, 0.1]
    assert list(sample_shares([total(1, 0)]).values()) == [0.1]
    assert sample_shares([]) == {}


def test_totals_are_those_of_the_rows() -> None:
    texts = ["""
    gateway  GET /cart  0..30
      orders  GET /order  2..20
    """] * 3 + ["gateway  GET /slow  0..400"]  # fmt: skip
    with stored([sketched_batch(texts)]) as spans:
        totals = [(each.service, each.endpoint, each.count, each.total_ns) for each in endpoint_totals(spans)]
        assert totals == [(row.service, row.endpoint, row.count, row.total_ns) for row in endpoint_rows(spans)]
        assert len(totals) == 3
