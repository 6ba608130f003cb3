"""Which service is at fault in recorded systems; skipped where `../shared/data` is not there."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from functools import cache

import pytest

from analysis.node import Node
from analysis.suspects import suspects
from tests.app.formats.imported import shared_file
from tests.bench.accuracy import ranked, requests_of

MS = 1_000_000


@cache
def hotel(load: int) -> list[Node]:
    return requests_of([shared_file(f"hotel/load{load}.json.gz")])


def mean_ms(roots: Sequence[Node]) -> float:
    return sum(root.duration_ns for root in roots) / len(roots) / MS


def recorded_mean_ms(load: int, service: str, operation: str) -> float:
    """Mean duration of an operation, read from the file without Spanwise."""
    with gzip.open(shared_file(f"hotel/load{load}.json.gz")) as file:
        traces = json.load(file)["data"]
    durations: list[float] = [
        span["duration"] / 1e3
        for trace in traces
        for span in trace["spans"]
        if span["operationName"] == operation and trace["processes"][span["processID"]]["serviceName"] == service
    ]
    return sum(durations) / len(durations)


@pytest.mark.parametrize("load", [75, 125])
def test_what_grows_with_load_is_named_first(load: int) -> None:
    found = suspects(hotel(25), hotel(load))
    first = found[0]
    assert first.service == "reservation"
    # Every trace has the same eleven calls, so that all costs together are what the mean request became longer.
    growth_ms = mean_ms(hotel(load)) - mean_ms(hotel(25))
    assert sum(one.cost_ns for one in found) / MS == pytest.approx(growth_ms, rel=0.02)
    operation = "/reservation.Reservation/CheckAvailability"
    grown_ms = recorded_mean_ms(load, "reservation", operation) - recorded_mean_ms(25, "reservation", operation)
    assert first.cost_ns / MS == pytest.approx(grown_ms, rel=0.25)
    assert first.cost_ns / MS > 0.3 * growth_ms


@pytest.mark.parametrize(
    "fault",
    # One of each kind, of both days; the whole set is `make bench-accuracy`.
    ["f0822_0353", "f0822_0527", "f0822_0744", "f0823_1319", "f0823_1504"],
)
def test_the_culprit_of_a_labelled_fault_is_first(fault: str) -> None:
    folder = shared_file("onlineboutique/labels.jsonl").parent
    labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    case, found = ranked(next(label for label in labels if label["fault_id"] == fault), folder)
    assert case.rank == 1, found[:3]
    assert case.candidates == 10


@pytest.mark.parametrize("day", ["0822", "0823"])
def test_a_healthy_minute_against_another_breaks_nothing_off(day: str) -> None:
    usual, now = (requests_of([shared_file(f"onlineboutique/{kind}{day}.jsonl.gz")]) for kind in "nc")
    for one in suspects(usual, now):
        assert one.stops == pytest.approx(0, abs=0.02)
        assert one.fails == 0
        assert one.score < 1
