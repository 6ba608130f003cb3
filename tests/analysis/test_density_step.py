"""A jump at a round duration is found where a sampler made it, and nowhere in what services do by themselves."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from analysis.density_step import THRESHOLDS_MS, DensityStep, density_step

_Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def step_of(durations_ms: _Floats) -> DensityStep | None:
    return density_step((durations_ms * 1e6).astype(np.int64))


def body(random: np.random.Generator, count: int) -> _Floats:
    """One mode: wide or narrow, with a sharp lower end or none, with a heavy tail or none."""
    median = math.exp(random.uniform(math.log(5), math.log(2_000)))
    shapes: list[Callable[[], _Floats]] = [
        lambda: random.lognormal(math.log(median), random.uniform(0.03, 1.2), count),
        lambda: median + random.exponential(median * random.uniform(0.02, 2), count),
        lambda: random.gamma(random.uniform(1, 20), 1, count) * median / 5,
        lambda: median * (1 + random.pareto(random.uniform(1.2, 5), count)),
        lambda: random.uniform(median * 0.5, median * 1.5, count),
    ]
    return shapes[random.integers(len(shapes))]()


def two_modes(random: np.random.Generator, count: int) -> _Floats:
    other = random.random(count) < random.uniform(0.01, 0.5)
    return np.where(other, body(random, count), body(random, count))


def timeout(random: np.random.Generator, count: int) -> _Floats:
    limit = float(random.choice(THRESHOLDS_MS))
    return np.minimum(body(random, count), limit + random.exponential(limit * 0.005, count))


def fallback(random: np.random.Generator, count: int) -> _Floats:
    """After a timeout at a round limit another way is gone, which takes a while."""
    limit = float(random.choice(THRESHOLDS_MS))
    late = random.lognormal(math.log(limit * random.uniform(0.02, 0.5)), random.uniform(0.2, 1), count)
    return np.where(
        random.random(count) < random.uniform(0.01, 0.3), limit + random.uniform(0, 3) + late, body(random, count)
    )


@pytest.mark.parametrize(
    ("shape", "share"), [(body, 0.005), (timeout, 0.01), (fallback, 0.01), (two_modes, 0.015)], ids=lambda one: str(one)
)
def test_services_that_nobody_samples_show_hardly_ever_one(
    shape: Callable[[np.random.Generator, int], _Floats], share: float
) -> None:
    """Of random shapes a sharp end may lie at a round duration by chance; where the time goes tells it apart then."""
    random = np.random.default_rng(1)
    found = sum(
        step_of(shape(random, int(math.exp(random.uniform(math.log(200), math.log(50_000)))))) is not None
        for _ in range(1_000)
    )
    assert found <= share * 1_000


@pytest.mark.parametrize("kept", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("threshold_ms", [100, 250, 500, 1_000, 2_000])
def test_a_sampler_that_keeps_slow_traces_shows(kept: float, threshold_ms: int) -> None:
    random = np.random.default_rng(2)
    # 2 % take longer than the threshold; 1 % fail and are kept too.
    durations = random.lognormal(math.log(threshold_ms) - 2.0537 * 0.7, 0.7, 60_000)
    stay = (durations >= threshold_ms) | (random.random(60_000) < 0.01) | (random.random(60_000) < kept)
    step = step_of(durations[stay])
    assert step is not None
    assert step.threshold_ns == threshold_ms * 1_000_000
    assert step_of(durations) is None
    inside = durations[stay] / threshold_ms
    assert step.above == ((inside >= 1) & (inside < 1.05)).sum()
    assert step.below == ((inside < 1) & (inside >= 1 / 1.05)).sum()


def test_every_second_request_of_very_many_is_looked_at() -> None:
    random = np.random.default_rng(3)
    durations = random.lognormal(5, 0.7, 2_000_000)
    stay = (durations >= 500) | (random.random(2_000_000) < 0.1)
    step = step_of(durations[stay])
    assert step is not None
    assert step.threshold_ns == 500_000_000
    assert step.above == ((durations >= 500) & (durations < 525)).sum()


@pytest.mark.parametrize("count", [0, 1, 24])
def test_few_requests_show_nothing(count: int) -> None:
    assert step_of(np.full(count, 500.0)) is None


def test_durations_of_any_size_are_no_trouble() -> None:
    assert density_step(np.array([0, 1, 2**62] * 100, dtype=np.int64)) is None
