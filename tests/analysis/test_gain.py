"""Estimated savings against the known truth: simulated windows, sampled in strata as the store's are."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from analysis.gain import estimate_gain, weighted_quantiles
from analysis.quantiles import weighted_quantile
from analysis.reports import Gain
from analysis.retime import Edit
from analysis.sample import Sample, SampledRequest
from analysis.trace import build_trace
from tests.random_traces import span

CAPS = (24, 72, 36, 48, 120)
Durations = np.ndarray[tuple[int], np.dtype[np.float64]]


def population(random: np.random.Generator, count: int) -> tuple[Durations, Durations]:
    """Requests before and after a fix that takes the wait away which one in twenty has."""
    work = random.lognormal(3, 0.5, count) * 1e6
    wait = np.where(random.random(count) < 0.05, random.lognormal(4.5, 0.5, count) * 1e6, 0)
    return work + wait, work


def gain_of(before: Durations, after: Durations, random: np.random.Generator) -> Gain:
    """The estimate from a stratified sample of one window."""
    low, high, p90, p99 = np.quantile(before, (0.4, 0.6, 0.9, 0.99))
    strata = np.select([before >= p99, before > p90, before > high, before >= low], [4, 3, 2, 1], 0)
    requests, edits = [], []
    for stratum, cap in enumerate(CAPS):
        members = np.flatnonzero(strata == stratum)
        for position in random.choice(members, min(cap, len(members)), replace=False):
            trace = build_trace([span(1, 0, 0, int(before[position]))])
            requests.append(
                SampledRequest(
                    trace,
                    trace.roots[0],
                    trace.roots[0].duration_ns,
                    len(members) / min(cap, len(members)),
                    stratum,
                    in_tail=stratum == 4,
                    in_body=stratum == 1,
                )
            )
            edits.append(Edit(durations_ns={1: int(after[position])}))
    sample = Sample("api", "GET /", len(before), 0.99, int(p99), int(low), int(high), None, tuple(requests))
    return estimate_gain(sample, edits, 10**9, bound="about", assumption="")


@lru_cache(maxsize=1)
def simulated() -> tuple[tuple[float, float, Gain], ...]:
    """(p99 before, p99 saved, estimate) of 60 windows; the first two are exact for the window."""
    random = np.random.default_rng(11)
    windows = []
    for _ in range(60):
        before, after = population(random, 3000)
        exact = float(np.quantile(before, 0.99))
        windows.append((exact, exact - float(np.quantile(after, 0.99)), gain_of(before, after, random)))
    return tuple(windows)


def test_equal_weights_give_the_engine_s_quantile() -> None:
    values = np.random.default_rng(3).lognormal(3, 1, 257)
    for q in (0.0, 0.3, 0.5, 0.95, 0.99, 1.0):
        assert weighted_quantile(values, np.ones(257), q) == pytest.approx(np.quantile(values, q))


def test_whole_weights_come_close_to_repeating_the_values() -> None:
    random = np.random.default_rng(4)
    values, weights = random.lognormal(3, 1, 400), random.integers(1, 5, 400)
    repeated = np.repeat(values, weights)
    for q in (0.1, 0.5, 0.9):
        assert weighted_quantile(values, weights.astype(float), q) == pytest.approx(np.quantile(repeated, q), rel=0.03)
    assert weighted_quantile(values, weights.astype(float), 1.0) == max(values)


def test_p99_and_savings_are_not_too_low_where_the_sample_is_thin_below_the_tail() -> None:
    p99 = np.mean([gain.p99_before_ns / exact - 1 for exact, _, gain in simulated()])
    saved = np.mean([gain.p99_saved_ns - true for _, true, gain in simulated()]) / np.mean(
        [s for _, s, _ in simulated()]
    )
    assert abs(p99) < 0.01
    assert abs(saved) < 0.02


def test_the_interval_holds_what_the_fix_saves_in_other_windows_too() -> None:
    before, after = population(np.random.default_rng(1), 1_000_000)
    true = float(np.quantile(before, 0.99) - np.quantile(after, 0.99))
    intervals = [(gain.p99_saved_low_ns or 0, gain.p99_saved_high_ns or 0) for _, _, gain in simulated()]
    assert sum(low <= true <= high for low, high in intervals) >= 54
    assert all(high - low < true for low, high in intervals)


@pytest.mark.parametrize("count", [1, 20, 300])
@pytest.mark.parametrize("q", [0.0, 0.5, 0.99, 1.0])
def test_many_draws_at_once_give_what_each_gives_alone(count: int, q: float) -> None:
    random = np.random.default_rng(count)
    values = random.lognormal(3, 1, count)
    chosen = random.integers(0, count, (40, count))
    weights = np.take_along_axis(random.choice([0.5, 1.0, 2.7, 40.0], (40, count)), chosen, axis=1)
    alone = [weighted_quantile(values[row], weight, q) for row, weight in zip(chosen, weights, strict=True)]
    assert weighted_quantiles(values, chosen, weights, q) == pytest.approx(alone)
