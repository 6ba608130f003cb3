"""Reports of a window that is looked at in part: near those of all of it, and they say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import pytest

from analysis import overview as overview_module
from analysis import retries
from analysis.overview import overview
from analysis.retries import retry_costs
from analysis.span import Spans
from app.formats.importing import read_file
from app.otlp.columns import Batch
from app.resources import demo_recording
from tests.stored import stored

T = TypeVar("T")
PART = 14_000


@lru_cache(maxsize=1)
def recorded() -> tuple[Batch, ...]:
    return tuple(read_file(demo_recording()).batches)


@pytest.fixture(scope="module")
def spans() -> Iterator[Spans]:
    with stored(recorded()) as found:
        yield found


@pytest.fixture
def in_part(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def look_at_a_part() -> None:
        for module in (overview_module, retries):
            monkeypatch.setattr(module, "MOST_EXAMINED", PART)

    return look_at_a_part


def test_edges_of_the_overview(spans: Spans, in_part: Callable[[], None]) -> None:
    whole = overview(spans)
    in_part()
    part = overview(spans)
    assert part.endpoints == whole.endpoints
    assert (part.span_count, part.trace_count, part.left_out) == (whole.span_count, whole.trace_count, whole.left_out)
    assert whole.partly == ""
    assert part.partly.startswith("Calls between services and notes about the data are those of 1")
    assert "in traces drawn evenly from it: counts and totals of all are about 4 times as large" in part.partly
    found = {(edge.caller, edge.callee): edge for edge in part.edges}
    frequent = [edge for edge in whole.edges if edge.calls >= 1_000]
    assert len(frequent) == 4
    for edge in frequent:
        few = found[edge.caller, edge.callee]
        assert few.calls * whole.span_count / PART == pytest.approx(edge.calls, rel=0.15)
        assert few.p95_ns == pytest.approx(edge.p95_ns, rel=0.35)


def test_retries(spans: Spans, in_part: Callable[[], None]) -> None:
    whole = retry_costs(spans)
    in_part()
    part = retry_costs(spans)
    assert (whole.partly, part.partly[:23]) == ("", "Calls, though not jobs,")
    assert part.total_traces == whole.total_traces == whole.examined_traces
    assert part.examined_traces < whole.examined_traces / 2
    jobs = [edge for edge in whole.edges if edge.kind == "job"]
    assert [edge for edge in part.edges if edge.kind == "job"] == jobs
    for edge in whole.edges:
        if edge.kind != "job" and edge.calls > 1_000:
            [few] = [one for one in part.edges if (one.caller, one.operation) == (edge.caller, edge.operation)]
            assert few.amplification == pytest.approx(edge.amplification, rel=0.1)
