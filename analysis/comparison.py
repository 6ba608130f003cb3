"""Two cohorts of one endpoint held against each other in every way that a page shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from analysis.cohorts import Accounted, category_rows, label_rows
from analysis.contrast import contrasts
from analysis.contrast_facts import facts_of
from analysis.endpoint_reports import Contrasts, LedgerRow, PathStep
from analysis.path_profile import path_profile
from analysis.region import ChosenSample
from analysis.sample import Sample, SampledRequest, equally_likely
from analysis.span import Spans

MAX_COMPARED = 80
"""Requests of each cohort whose attributes are read: of 320 traces over all of 10 million spans that took 0.5 s."""

_S = TypeVar("_S", Sample, ChosenSample)


@dataclass(frozen=True)
class Comparison:
    """As in `EndpointReport` and `ChosenReport`."""

    ledger: tuple[LedgerRow, ...]
    category_rows: tuple[LedgerRow, ...]
    contrasts: Contrasts
    path: tuple[PathStep, ...]
    sampled_tail: int
    sampled_body: int


def comparison(spans: Spans, accounted: Accounted[_S]) -> Comparison:
    """Tail against body, or chosen against the rest."""
    tail, body = accounted.sample.tail, accounted.sample.body
    # In the order of the draw, which is by hash: as good as any.
    slow: list[SampledRequest] = equally_likely(tail)[:MAX_COMPARED]
    normal: list[SampledRequest] = equally_likely(body)[:MAX_COMPARED]
    facts = facts_of(spans, [*slow, *normal])
    return Comparison(
        ledger=label_rows(accounted),
        category_rows=category_rows(accounted),
        contrasts=contrasts(facts[: len(slow)], facts[len(slow) :]),
        path=path_profile(accounted.booked_of(tail=True), accounted.booked_of(tail=False)),
        sampled_tail=len(tail),
        sampled_body=len(body),
    )
