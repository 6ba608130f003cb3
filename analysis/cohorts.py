"""Body against tail: what the slow requests of an endpoint spend their time on that the typical ones do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.accounting import request_ledger
from analysis.ledger import TIME_KINDS, Category, Ledger, TimeKind
from analysis.reports import LedgerRow
from analysis.sample import Sample, SampledRequest

DRAWS = 400
SEED = 20_240_917
"""Bootstrap draws are seeded, so that the same data always gives the same interval."""
MAX_ROWS = 40
MAX_TRACES = 5
THE_REST = "everything else"

_Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]
_KeyOf = Callable[[Category, str], tuple[Category, str]]
_ORDER = {category: position for position, category in enumerate(Category)}


@dataclass(frozen=True, eq=False)
class Accounted:
    """A sample with the ledger of each request, in the sample's order."""

    sample: Sample
    ledgers: tuple[Ledger, ...]

    def of(self, *, tail: bool) -> list[tuple[SampledRequest, Ledger]]:
        """Requests of the tail (or else the body) cohort with their ledgers."""
        pairs = zip(self.sample.requests, self.ledgers, strict=True)
        return [(request, ledger) for request, ledger in pairs if (request.in_tail if tail else request.in_body)]

    def kind_shares(self) -> dict[TimeKind, float]:
        """Share of the endpoint's critical-path time by kind, each request weighted by how many it stands for."""
        totals: dict[TimeKind, float] = dict.fromkeys(TimeKind, 0.0)
        for request, ledger in zip(self.sample.requests, self.ledgers, strict=True):
            for part in ledger.slices:
                totals[TIME_KINDS[part.category]] += part.duration_ns * request.weight
        whole = sum(totals.values())
        return {kind: value / whole if whole else 0.0 for kind, value in totals.items()}


def account(sample: Sample) -> Accounted:
    """The ledger of every sampled request."""
    return Accounted(sample, tuple(request_ledger(request.trace, request.root) for request in sample.requests))


def label_rows(accounted: Accounted) -> tuple[LedgerRow, ...]:
    """One row a category and label, largest difference first; what is left after 40 rows is summed by category."""
    rows = _rows(accounted, lambda category, label: (category, label))
    if len(rows) <= MAX_ROWS:
        return rows
    kept = {(row.category, row.label) for row in rows[: MAX_ROWS - len(Category)]}
    return _rows(accounted, lambda category, label: (category, label if (category, label) in kept else THE_REST))


def category_rows(accounted: Accounted) -> tuple[LedgerRow, ...]:
    """One row a category that occurs, in the order of `Category`."""
    rows = _rows(accounted, lambda category, label: (category, ""))
    return tuple(sorted(rows, key=lambda row: _ORDER[row.category]))


def _rows(accounted: Accounted, key_of: _KeyOf) -> tuple[LedgerRow, ...]:
    tail, body = accounted.of(tail=True), accounted.of(tail=False)
    keys: dict[tuple[Category, str], int] = {}
    for _, ledger in tail + body:
        for part in ledger.slices:
            keys.setdefault(key_of(part.category, part.label), len(keys))
    if not keys:
        return ()
    tail_ns, body_ns = _matrix(tail, keys, key_of), _matrix(body, keys, key_of)
    low, high = _difference_interval(tail_ns, body_ns)
    tail_means, body_means = _means(tail_ns), _means(body_ns)
    rows = [
        LedgerRow(
            category=category,
            label=label,
            body_mean_ns=round(body_means[column]),
            tail_mean_ns=round(tail_means[column]),
            difference_low_ns=round(low[column]),
            difference_high_ns=round(high[column]),
            trace_ids=_spenders(tail, tail_ns[:, column]),
        )
        for (category, label), column in keys.items()
    ]
    rows.sort(key=lambda row: (-row.difference_ns, _ORDER[row.category], row.label))
    return tuple(rows)


def _matrix(
    cohort: Sequence[tuple[SampledRequest, Ledger]], keys: dict[tuple[Category, str], int], key_of: _KeyOf
) -> _Matrix:
    matrix = np.zeros((len(cohort), len(keys)))
    for position, (_, ledger) in enumerate(cohort):
        for part in ledger.slices:
            matrix[position, keys[key_of(part.category, part.label)]] += part.duration_ns
    return matrix


def _means(matrix: _Matrix) -> list[float]:
    return [float(mean) for mean in matrix.mean(axis=0)] if len(matrix) else [0.0] * matrix.shape[1]


def _difference_interval(tail: _Matrix, body: _Matrix) -> tuple[list[float], list[float]]:
    """95 % percentile bootstrap of mean(tail) - mean(body), requests drawn with replacement within each cohort."""
    random = np.random.default_rng(SEED)
    draws = np.zeros((DRAWS, tail.shape[1]))
    for cohort, sign in ((tail, 1.0), (body, -1.0)):
        if len(cohort):
            counts = random.multinomial(len(cohort), np.full(len(cohort), 1 / len(cohort)), size=DRAWS)
            draws += sign * (counts @ cohort) / len(cohort)
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    return low.tolist(), high.tolist()


def _spenders(
    tail: Sequence[tuple[SampledRequest, Ledger]], column: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[str, ...]:
    order = sorted(range(len(tail)), key=lambda position: (-column[position], tail[position][0].trace.trace_id))
    return tuple(
        dict.fromkeys(tail[position][0].trace.trace_id for position in order[:MAX_TRACES] if column[position] > 0)
    )
