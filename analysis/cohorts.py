"""Body against tail: what the slow requests of an endpoint spend their time on that the typical ones do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from analysis.accounting import BookedRequest, bookings, ledger_of
from analysis.bootstrap import block_times
from analysis.draw import BODY
from analysis.endpoint_reports import LedgerRow
from analysis.ledger import TIME_KINDS, Category, Ledger, TimeKind
from analysis.quantiles import Floats, Integers, weighted_quantile
from analysis.region import ChosenSample
from analysis.sample import Sample, SampledRequest
from analysis.suspect_times import NOISE_NS

DRAWS = 400
SEED = 20_240_917
"""Bootstrap draws are seeded, so that the same data always gives the same interval."""
MAX_ROWS = 40
MAX_TRACES = 5
THE_REST = "everything else"

_S = TypeVar("_S", Sample, ChosenSample)
_Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]
_Side = tuple[_Matrix, Floats, Integers]
"""What requests spent, their adjusted counts, and when they began."""
_KeyOf = Callable[[Category, str], tuple[Category, str]]
_ORDER = {category: position for position, category in enumerate(Category)}


@dataclass(frozen=True, eq=False)
class Accounted(Generic[_S]):
    """A sample with the ledger of each request, in the sample's order."""

    sample: _S
    ledgers: tuple[Ledger, ...]
    booked: tuple[BookedRequest, ...]
    """What the ledgers sum up."""

    @property
    def pairs(self) -> list[tuple[SampledRequest, Ledger]]:
        return list(zip(self.sample.requests, self.ledgers, strict=True))

    def of(self, *, tail: bool) -> list[tuple[SampledRequest, Ledger]]:
        """Requests of the tail (or else the body) cohort with their ledgers."""
        return [(request, ledger) for request, ledger in self.pairs if (request.in_tail if tail else request.in_body)]

    def booked_of(self, *, tail: bool) -> list[BookedRequest]:
        """Likewise with their critical paths."""
        pairs = zip(self.sample.requests, self.booked, strict=True)
        return [booked for request, booked in pairs if (request.in_tail if tail else request.in_body)]

    def kind_shares(self) -> dict[TimeKind, float]:
        """Share of the endpoint's critical-path time by kind, each request weighted by how many it stands for."""
        return _shares(
            (part.category, part.duration_ns * request.weight)
            for request, ledger in zip(self.sample.requests, self.ledgers, strict=True)
            for part in ledger.slices
        )


def kind_shares(sample: Sample) -> dict[TimeKind, float]:
    """`Accounted.kind_shares` without ledgers, which take as long again."""
    return _shares(
        (booking.category, booking.duration_ns * request.weight)
        for request in sample.requests
        for booking in bookings(request.trace, request.root)
    )


def _shares(times: Iterable[tuple[Category, float]]) -> dict[TimeKind, float]:
    totals: dict[TimeKind, float] = dict.fromkeys(TimeKind, 0.0)
    for category, weighted_ns in times:
        totals[TIME_KINDS[category]] += weighted_ns
    whole = sum(totals.values())
    return {kind: value / whole if whole else 0.0 for kind, value in totals.items()}


def account(sample: _S) -> Accounted[_S]:
    """The ledger of every sampled request."""
    booked = tuple(
        BookedRequest(request.root, bookings(request.trace, request.root), request.adjusted_count)
        for request in sample.requests
    )
    return Accounted(sample, tuple(ledger_of(one.root, one.booked) for one in booked), booked)


def label_rows(accounted: Accounted[_S]) -> tuple[LedgerRow, ...]:
    """One row a category and label, largest difference first; what is left after 40 rows is summed by category."""
    rows = _rows(accounted, lambda category, label: (category, label))
    if len(rows) <= MAX_ROWS:
        return rows
    kept = {(row.category, row.label) for row in rows[: MAX_ROWS - len(Category)]}
    return _rows(accounted, lambda category, label: (category, label if (category, label) in kept else THE_REST))


def category_rows(accounted: Accounted[_S]) -> tuple[LedgerRow, ...]:
    """One row a category that occurs, in the order of `Category`."""
    rows = _rows(accounted, lambda category, label: (category, ""))
    return tuple(sorted(rows, key=lambda row: _ORDER[row.category]))


def _rows(accounted: Accounted[_S], key_of: _KeyOf) -> tuple[LedgerRow, ...]:
    tail, body = accounted.of(tail=True), accounted.of(tail=False)
    keys: dict[tuple[Category, str], int] = {}
    for _, ledger in tail + body:
        for part in ledger.slices:
            keys.setdefault(key_of(part.category, part.label), len(keys))
    if not keys:
        return ()
    tail_ns, body_ns = _matrix(tail, keys, key_of), _matrix(body, keys, key_of)
    tail_counts, body_counts = _adjusted_counts(tail), _adjusted_counts(body)
    whole_ns = _matrix(accounted.pairs, keys, key_of)
    fences = _fences(whole_ns, np.array([request.weight for request in accounted.sample.requests], dtype=np.float64))
    far = _means((tail_ns > fences).astype(np.float64), tail_counts)
    low, high = (
        two_sample_interval((tail_ns, tail_counts, _starts(tail)), (body_ns, body_counts, _starts(body)))
        if isinstance(accounted.sample, ChosenSample)
        else _whole_interval(accounted.sample, whole_ns)
    )
    tail_means, body_means = _means(tail_ns, tail_counts), _means(body_ns, body_counts)
    body_deviations = _deviations(body_ns, body_counts)
    rows = [
        LedgerRow(
            category=category,
            label=label,
            body_mean_ns=round(body_means[column]),
            tail_mean_ns=round(tail_means[column]),
            difference_low_ns=round(low[column]),
            difference_high_ns=round(high[column]),
            far_share=far[column],
            z=(tail_means[column] - body_means[column]) / (body_deviations[column] + NOISE_NS),
            trace_ids=_spenders(tail, tail_ns[:, column]),
        )
        for (category, label), column in keys.items()
    ]
    rows.sort(key=lambda row: (-row.difference_ns, _ORDER[row.category], row.label))
    return tuple(rows)


def _whole_interval(sample: Sample, spent: _Matrix) -> tuple[list[float], list[float]]:
    requests = sample.requests
    drawn = DrawnTimes(
        durations_ns=np.array([request.duration_ns for request in requests], dtype=np.float64),
        starts_ns=np.array([request.root.span.start_ns for request in requests], dtype=np.int64),
        weights=np.array([request.drawn_weight for request in requests], dtype=np.float64),
        adjusted_counts=np.array([request.adjusted_count for request in requests], dtype=np.float64),
        strata=np.array([request.stratum for request in requests], dtype=np.int64),
    )
    return difference_interval(drawn, spent, sample.tail_quantile)


def _starts(cohort: Sequence[tuple[SampledRequest, Ledger]]) -> Integers:
    return np.array([request.root.span.start_ns for request, _ in cohort], dtype=np.int64)


def _adjusted_counts(cohort: Sequence[tuple[SampledRequest, Ledger]]) -> Floats:
    return np.array([request.adjusted_count for request, _ in cohort], dtype=np.float64)


def _matrix(
    cohort: Sequence[tuple[SampledRequest, Ledger]], keys: dict[tuple[Category, str], int], key_of: _KeyOf
) -> _Matrix:
    matrix = np.zeros((len(cohort), len(keys)))
    for position, (_, ledger) in enumerate(cohort):
        for part in ledger.slices:
            column = keys.get(key_of(part.category, part.label))
            if column is not None:
                matrix[position, column] += part.duration_ns
    return matrix


def _means(matrix: _Matrix, counts: Floats) -> list[float]:
    return [float(mean) for mean in counts @ matrix / counts.sum()] if len(matrix) else [0.0] * matrix.shape[1]


def _fences(spent: _Matrix, weights: Floats) -> Floats:
    """For each place the time beyond which it is far out: 1.5 quartile ranges above the upper quartile, of logarithms.

    Source: Tukey, Exploratory Data Analysis, 1977. Half a millisecond is added: absent and tiny times are alike.
    """
    logs = np.log(spent + NOISE_NS)
    lower, upper = (np.array([weighted_quantile(column, weights, q) for column in logs.T]) for q in (0.25, 0.75))
    fences: Floats = np.exp(upper + 1.5 * (upper - lower)) - NOISE_NS
    return fences


def _deviations(matrix: _Matrix, counts: Floats) -> list[float]:
    if not len(matrix):
        return [0.0] * matrix.shape[1]
    apart = np.square(matrix - np.array(_means(matrix, counts)))
    return [float(one) for one in np.sqrt(counts @ apart / counts.sum())]


class DrawnTimes(NamedTuple):
    """A stratified sample of requests, one place a request."""

    durations_ns: Floats
    starts_ns: Integers
    weights: Floats
    """Stratum size / drawn."""
    adjusted_counts: Floats
    """What a request stands for beyond that, after a sampler upstream."""
    strata: Integers


def difference_interval(sample: DrawnTimes, spent: _Matrix, tail_quantile: float) -> tuple[list[float], list[float]]:
    """95 % percentile bootstrap of mean(tail) - mean(body) for each column of what the sampled requests spent.

    Requests are drawn within their strata in blocks of neighbours in time, the sizes of the strata too, and each draw
    has its own tail and body: where the tail begins is as uncertain as what is in it. With the cohorts held fixed the
    interval held the true difference in 54 to 83 % of simulated windows. A request at a cohort's edge counts with its
    part inside.
    """
    random = np.random.default_rng(SEED)
    order = np.lexsort((sample.starts_ns, sample.durations_ns))
    starts, strata = sample.starts_ns[order], sample.strata[order]
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    sizes = np.array([sample.weights[order][positions].sum() for positions in members])
    counts = random.multinomial(round(float(sizes.sum())), sizes / sizes.sum(), size=DRAWS)
    drawn = np.zeros((DRAWS, len(order)))
    for column, positions in enumerate(members):
        in_time = positions[np.argsort(starts[positions], kind="stable")]
        share = block_times(random, len(in_time), DRAWS) / len(in_time)
        drawn[:, in_time] = share * counts[:, [column]] * sample.adjusted_counts[order][in_time]
    ends = np.cumsum(drawn, axis=1)
    total = ends[:, [-1]]

    def mean_between(low: float, high: float) -> _Matrix:
        inside = np.clip(ends, low * total, high * total) - np.clip(ends - drawn, low * total, high * total)
        means: _Matrix = (inside @ spent[order]) / ((high - low) * total)
        return means

    draws = mean_between(tail_quantile, 1.0) - mean_between(*BODY)
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    return low.tolist(), high.tolist()


def two_sample_interval(chosen: _Side, rest: _Side) -> tuple[list[float], list[float]]:
    """95 % percentile bootstrap of mean(chosen) - mean(rest) for each column; each side is drawn on its own, in blocks.

    A request counts in its mean as often as its adjusted count says.
    """
    if not len(chosen[0]) or not len(rest[0]):
        return [0.0] * chosen[0].shape[1], [0.0] * chosen[0].shape[1]
    random = np.random.default_rng(SEED)

    def means(side: _Side) -> _Matrix:
        spent, adjusted_counts, starts = side
        in_time = np.argsort(starts, kind="stable")
        drawn = block_times(random, len(spent), DRAWS) * adjusted_counts[in_time]
        resampled: _Matrix = (drawn @ spent[in_time]) / drawn.sum(axis=1, keepdims=True)
        return resampled

    low, high = np.quantile(means(chosen) - means(rest), (0.025, 0.975), axis=0)
    return low.tolist(), high.tolist()


def _spenders(
    tail: Sequence[tuple[SampledRequest, Ledger]], column: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[str, ...]:
    order = sorted(range(len(tail)), key=lambda position: (-column[position], tail[position][0].trace.trace_id))
    return tuple(
        dict.fromkeys(tail[position][0].trace.trace_id for position in order[:MAX_TRACES] if column[position] > 0)
    )
