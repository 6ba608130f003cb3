"""Which requests are looked at, against a draw made one by one in Python."""

from __future__ import annotations

import uuid
from collections import defaultdict

import duckdb
import numpy as np
import pytest

from analysis import draw
from analysis.draw import STRATA_CAPS, Draw, draw_requests
from app.otlp.columns import Batch
from tests.app.spans_made import START_NS, batch, record
from tests.stored import stored

COUNT = 3_000


def requests(traces: int, seed: int = 5) -> Batch:
    """3,000 requests of one endpoint in so many traces, with random durations and ids."""
    random = np.random.default_rng(seed)
    durations = (random.lognormal(3, 1, COUNT) * 1e6).astype(int).tolist()
    names = [int.from_bytes(random.bytes(16), "big") for _ in range(traces)]
    return batch(
        record(
            number + 1,
            trace=names[number % traces],
            name="GET /",
            start_ns=START_NS + number,
            end_ns=START_NS + number + duration_ns,
            attributes={},
        )
        for number, duration_ns in enumerate(durations)
    )


def by_hand(one: Batch, drawn: Draw, share: float) -> list[tuple[str, int, int, int, float]]:
    strata: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
    traces = [uuid.UUID(bytes=bytes(raw)) for raw in one.spans["trace_id"].combine_chunks().storage.to_pylist()]
    asked = "select replace(trace::varchar, '-', ''), hash(trace) from (select unnest($traces)::uuid as trace)"
    hashes = dict(duckdb.execute(asked, {"traces": [str(trace) for trace in traces]}).fetchall())
    durations = one.spans["duration_ns"].to_pylist()
    p90 = round(float(np.quantile(durations, 0.9)))
    for trace, span_id, duration_ns in zip(traces, one.spans["span_id"].to_pylist(), durations, strict=True):
        bounds = [drawn.body_low_ns, drawn.body_high_ns + 1, p90 + 1, drawn.tail_from_ns]
        stratum = sum(duration_ns >= bound for bound in bounds)
        strata[stratum].append((hashes[trace.hex], trace.hex, span_id))
    caps = [max(8, round(cap * share)) for cap in STRATA_CAPS]
    return [
        (trace, span_id, stratum, len(members), 1.0)
        for stratum, members in sorted(strata.items())
        for _, trace, span_id in sorted(members, key=lambda member: (member[0], member[2]))[: caps[stratum]]
    ]


@pytest.mark.parametrize("traces", [COUNT, 40, 1])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.05])
def test_the_lowest_hashes_of_each_stratum(traces: int, share: float) -> None:
    one = requests(traces)
    with stored([one]) as spans:
        [drawn] = draw_requests(spans, {("shop", "GET /"): share, ("shop", "never asked for"): 1.0})
    assert (drawn.total, drawn.tail_quantile) == (COUNT, 0.99)
    assert [tuple(one) for one in drawn.rows] == by_hand(one, drawn, share)


def test_few_hashes_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[list[int]] = []
    lowest = draw._lowest

    def noted(*arguments: object) -> list[tuple[int, draw.DrawnRequest]]:
        bounds.append(list(arguments[2]))  # type: ignore[call-overload]
        return lowest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(draw, "_lowest", noted)
    with stored([requests(COUNT)]) as spans:
        draw_requests(spans, {("shop", "GET /"): 0.05})
    [asked] = bounds
    # 1,200 requests below p40: of these 64 and twice the eight that are wanted.
    assert asked[0] / 2**64 == pytest.approx(80 / 1_200, rel=0.01)
    assert asked[4] == 2**64 - 1
