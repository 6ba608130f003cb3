"""Where an endpoint's latency changed its level, by how much, what grew, and which versions came at that time.

Method: the split of a series of buckets with the largest rank-sum difference of both sides, against the same of 2,000
permutations (Pettitt's test without its approximation), then each side again (binary segmentation). Ranks, so that a
single spike is no change of level.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from analysis.change_suspects import clear_suspect
from analysis.cohorts import Accounted
from analysis.endpoint_reports import LatencyChange, LatencySeries
from analysis.ledger import Category
from analysis.sample import Sample
from analysis.span import Spans

MIN_BUCKETS = 20
MIN_SIDE = 5
"""Of 20 values split 5 to 15 one order in 7,752 is as extreme; fewer on one side could not be told from chance."""
MAX_P = 0.001
MIN_CHANGE_SHARE, MIN_CHANGE_NS = 0.05, 2_000_000
MAX_CHANGES = 3
MIN_SAMPLED = 20
MIN_GROWTH_SHARE = 0.3
_PERMUTATIONS = 2_000
_SEED = 4_711
_NEAR_BUCKETS = 2

_Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
_Rows = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def latency_changes(spans: Spans, series: LatencySeries, accounted: Accounted[Sample]) -> tuple[LatencyChange, ...]:
    """Changes of p50 and p95 in order of time; one where both change at once, that of the larger ratio."""
    found = [
        (quantile, *one)
        for quantile, values in ((0.95, series.p95_ns), (0.5, series.p50_ns))
        for one in level_changes(values)
    ]
    found.sort(key=lambda one: -max(one[2], one[3]) / max(min(one[2], one[3]), 1.0))
    kept: list[tuple[float, int, float, float]] = []
    for one in found:
        if all(abs(one[1] - other[1]) > _NEAR_BUCKETS for other in kept) and len(kept) < MAX_CHANGES:
            kept.append(one)
    kept.sort(key=lambda one: one[1])
    edges = [0, *(bucket for _, bucket, _, _ in kept), len(series.start_ns)]
    versions = _versions(spans) if kept else {}
    endpoint = accounted.sample.service, accounted.sample.endpoint
    changes = []
    for place, (quantile, bucket, before_ns, after_ns) in enumerate(kept):
        at_ns = series.start_ns[bucket]
        first_ns = series.start_ns[edges[place]]
        last = edges[place + 2]
        last_ns = series.start_ns[last] if last < len(series.start_ns) else series.start_ns[-1] + series.bucket_ns
        category, label, growth_ns = _grown(accounted, (first_ns, at_ns, last_ns), after_ns > before_ns)
        near_ns = _NEAR_BUCKETS * series.bucket_ns
        changes.append(
            LatencyChange(
                quantile=quantile,
                at_ns=at_ns,
                before_ns=round(before_ns),
                after_ns=round(after_ns),
                category=category,
                label=label,
                growth_ns=round(growth_ns),
                suspect=clear_suspect(spans, *endpoint, first_ns, at_ns, last_ns),
                versions=tuple(
                    f"{service} {version}"
                    for (service, version), since_ns in versions.items()
                    if at_ns - near_ns <= since_ns <= at_ns + near_ns
                ),
            )
        )
    return tuple(changes)


def level_changes(values: Sequence[float | None]) -> list[tuple[int, float, float]]:
    """(first bucket of the new level, median before, median after) in order; None is a bucket without a value."""
    places = [place for place, value in enumerate(values) if value is not None]
    known: _Floats = np.array([value for value in values if value is not None], dtype=np.float64)
    if len(known) < MIN_BUCKETS:
        return []
    random = np.random.default_rng(_SEED)
    splits: list[int] = []
    parts = [(0, len(known))]
    while parts and len(splits) < MAX_CHANGES:
        first, last = parts.pop(0)
        split = _split(known[first:last], random)
        if split is not None:
            splits.append(first + split)
            parts += [(first, first + split), (first + split, last)]
    edges = [0, *sorted(splits), len(known)]
    for place in range(1, len(edges) - 1):
        # With three levels in one part the first cut lies beside the step: looked for again between its neighbours.
        first, last = edges[place - 1], edges[place + 1]
        edges[place] = first + _best_split(_differences(_ranks(known[first:last])))
    found = []
    for before, at, after in zip(edges, edges[1:], edges[2:], strict=False):
        old, new = float(np.median(known[before:at])), float(np.median(known[at:after]))
        if abs(new - old) >= max(MIN_CHANGE_SHARE * old, MIN_CHANGE_NS):
            found.append((places[at], old, new))
    return found


def _split(values: _Floats, random: np.random.Generator) -> int | None:
    """Where two levels meet, None where chance would split as well."""
    if len(values) < 2 * MIN_SIDE:
        return None
    ranks = _ranks(values)
    seen = _differences(ranks)
    shuffled = random.permuted(np.tile(ranks, (_PERMUTATIONS, 1)), axis=1)
    as_large = int((_differences(shuffled).max(axis=-1) >= seen.max()).sum())
    return _best_split(seen) if (1 + as_large) / (1 + _PERMUTATIONS) <= MAX_P else None


def _ranks(values: _Floats) -> _Rows:
    # Equal values share their mean rank: by place they would look like a rise.
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: _Rows = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return ranks


def _differences(ranks: _Rows) -> _Rows:
    """By how many standard deviations the rank sums of both sides differ, for each split of each row."""
    count = ranks.shape[-1]
    sides = np.arange(MIN_SIDE, count - MIN_SIDE + 1)
    sums = np.cumsum(ranks, axis=-1)[..., MIN_SIDE - 1 : count - MIN_SIDE]
    found: _Rows = np.abs(sums - sides * (count + 1) / 2) / np.sqrt(sides * (count - sides) * (count + 1) / 12)
    return found


def _best_split(differences: _Rows) -> int:
    return MIN_SIDE + int(differences.argmax())


def _grown(accounted: Accounted[Sample], times: tuple[int, int, int], grew: bool) -> tuple[Category | None, str, float]:
    """The place whose mean time changed most in the direction of the whole, of the sampled requests on both sides."""
    first_ns, at_ns, last_ns = times
    sums: dict[tuple[Category, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    weights, counts, durations = [0.0, 0.0], [0, 0], [0.0, 0.0]
    for request, ledger in zip(accounted.sample.requests, accounted.ledgers, strict=True):
        start_ns = request.root.span.start_ns
        if not first_ns <= start_ns < last_ns:
            continue
        side = int(start_ns >= at_ns)
        counts[side] += 1
        weights[side] += request.weight
        durations[side] += request.weight * request.duration_ns
        for part in ledger.slices:
            sums[part.category, part.label][side] += request.weight * part.duration_ns
    if min(counts) < MIN_SAMPLED:
        return None, "", 0.0
    sign = 1 if grew else -1
    whole = sign * (durations[1] / weights[1] - durations[0] / weights[0])
    growth = {place: sign * (of[1] / weights[1] - of[0] / weights[0]) for place, of in sums.items()}
    place = max(growth, key=lambda one: (growth[one], one))
    if whole <= 0 or growth[place] < MIN_GROWTH_SHARE * whole:
        return None, "", 0.0
    return place[0], place[1], sign * growth[place]


def _versions(spans: Spans) -> dict[tuple[str, str], int]:
    """When each version of each service was first seen in the window, where a service has more than one."""
    rows = spans.rows(
        """
        select service, service_version, min(start_ns) as since_ns from spans
        where service_version <> ''
        group by service, service_version
        order by service, since_ns, service_version
        """
    )
    seen: dict[str, int] = defaultdict(int)
    for service, _, _ in rows:
        seen[service] += 1
    return {(service, version): int(since_ns) for service, version, since_ns in rows if seen[service] > 1}
