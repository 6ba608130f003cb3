"""However often spans are sent, split and merged as they may be: every figure is that of sending them once."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.fixes import fixes
from analysis.overview import overview
from analysis.queueing import queue_waits
from analysis.retries import retry_costs
from analysis.search import TraceFilter, trace_list
from analysis.tail import endpoint_report
from analysis.trace_view import trace_report
from app.grace import Grace
from app.ingest.ingest import Ingest, IngestLimits
from app.otlp.columns import Batch
from app.otlp.json import decode_json
from app.otlp.records import SpanRecord
from app.store import open_store
from app.store.base import LIVE
from app.store.connection import default_limits
from app.store.duckdb import DuckStore
from tests.app.spans_made import ALL, START_NS, batch, record

LIMITS = replace(default_limits(), memory_bytes=2**28, threads=1)
TRACES = 6
SPANS = TRACES * 4


def span(number: int) -> SpanRecord:
    """Four spans a trace: a request, a call that fails, its repeat, and one late part."""
    trace, place = divmod(number, 4)
    start_ns = START_NS + trace * 50_000_000 + place * 1_000_000
    return record(
        number + 1,
        trace + 1,
        name="GET /cart" if not place else "GET /stock",
        kind=3 if place else 2,
        parent_span_id=trace * 4 + 1 if place else 0,
        start_ns=start_ns,
        end_ns=start_ns + (9_000_000 + trace * 1_000_000 if not place else 900_000),
        status_code=2 if place == 1 else 0,
        attributes={"http.request.method": "GET", "server.address": "stock"},
    )


@dataclass(frozen=True)
class Send:
    """Some spans to one dataset; before them, the server may be started anew."""

    numbers: tuple[int, ...]
    dataset: int = LIVE
    restart: bool = False


def figures(store: DuckStore, dataset_id: int = LIVE) -> list[object]:
    """What pages show of a dataset."""
    with store.read(dataset_id, ALL, 30) as spans:
        seen = overview(spans, now_ns=START_NS)
        reports: list[object] = [seen, queue_waits(spans), retry_costs(spans), fixes(spans)]
        reports += [endpoint_report(spans, row.service, row.endpoint) for row in seen.endpoints]
        listed = trace_list(spans, TraceFilter())
        reports += [listed, *(trace_report(spans, row.trace_id) for row in listed.rows)]
        reports += [sorted(spans.rows(f"select * from {view} order by all")) for view in ("span_events", "span_links")]
    return reports


def sent_once(numbers: set[int]) -> list[object]:
    store = open_store(":memory:", LIMITS)
    store.append(LIVE, [made(sorted(numbers))])
    found = figures(store)
    store.close()
    return found


def made(numbers: Sequence[int]) -> Batch:
    return batch(span(number) for number in numbers)


NUMBERS = st.lists(st.integers(0, SPANS - 1), max_size=SPANS).map(tuple)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.builds(Send, NUMBERS, st.integers(0, 2), st.booleans()), min_size=1, max_size=8))
def test_any_way_of_sending_gives_the_figures_of_sending_once(sends: list[Send]) -> None:
    """Into three datasets at once: live, and two uploads that begin with the same file."""
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "a.duckdb")
        store = open_store(path, LIMITS)
        file = range(6, 14)
        uploads = [store.import_dataset("a", "upload", "", "x", [made(file)]).dataset_id for _ in range(2)]
        datasets = [LIVE, *uploads]
        held = [set[int](), set(file), set(file)]
        for send in sends:
            if send.restart:
                store.close()
                store = open_store(path, LIMITS)
            new = set(send.numbers) - held[send.dataset]
            assert store.append(datasets[send.dataset], [made(send.numbers)]).inserted == len(new)
            held[send.dataset] |= new
        for dataset_id, numbers in zip(datasets, held, strict=True):
            if numbers:
                assert figures(store, dataset_id) == sent_once(numbers)
        assert [each.span_count for each in reversed(store.datasets()[1:])] == [len(each) for each in held[1:]]
        store.close()


@pytest.mark.parametrize("seed", range(3))
def test_senders_that_repeat_one_another_at_once(seed: int, tmp_path: Path) -> None:
    """Each of four sends everything, in an order and in batches of its own."""
    store = open_store(str(tmp_path / "a.duckdb"), LIMITS)
    inserted: list[int] = []

    def send(chance: Random) -> None:
        numbers = chance.sample(range(SPANS), SPANS)
        while numbers:
            size = chance.randint(1, 6)
            part, numbers = numbers[:size], numbers[size:]
            inserted.append(store.append(LIVE, [made(part)]).inserted)

    threads = [threading.Thread(target=send, args=(Random(f"{seed} {number}"),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(inserted) == SPANS
    assert figures(store) == sent_once(set(range(SPANS)))
    store.close()


def test_every_order_of_a_trace_that_comes_span_by_span() -> None:
    expected = sent_once(set(range(4)))
    for order in itertools.permutations(range(4)):
        store = open_store(":memory:", LIMITS)
        for number in order:
            store.append(LIVE, [made([number])])
        assert figures(store) == expected
        store.close()


def body(numbers: Sequence[int]) -> bytes:
    """The spans as a request in JSON."""
    spans = [
        {
            "traceId": f"{number // 4 + 1:032x}",
            "spanId": f"{number + 1:016x}",
            "parentSpanId": f"{number // 4 * 4 + 1:016x}" if number % 4 else "",
            "name": "GET /cart",
            "kind": 3 if number % 4 else 2,
            "startTimeUnixNano": str(START_NS + number * 1_000_000),
            "endTimeUnixNano": str(START_NS + number * 1_000_000 + 900_000),
        }
        for number in numbers
    ]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}).encode()


def test_bodies_that_arrive_at_once_across_a_restart(tmp_path: Path) -> None:
    """Through decoding and group commits; the second server knows nothing of what the first one stored lately."""
    chance, path = Random(5), str(tmp_path / "a.duckdb")

    async def send(numbers: set[int]) -> int:
        store = open_store(path, LIMITS)
        ingest = Ingest(store, IngestLimits(decoders=1))
        await ingest.start()
        bodies = [chance.sample(sorted(numbers), chance.randint(1, len(numbers))) for _ in range(30)]
        tallies = await asyncio.gather(
            *(ingest.submit(body(each), media="json", timeout_s=30) for each in [*bodies, sorted(numbers)])
        )
        assert sum(tally.duplicates + tally.accepted for tally in tallies) == sum(map(len, bodies)) + len(numbers)
        await ingest.stop(Grace(5))
        store.close()
        return sum(tally.accepted for tally in tallies)

    assert asyncio.run(send(set(range(16)))) == 16
    assert asyncio.run(send(set(range(SPANS)))) == SPANS - 16
    once, store = open_store(":memory:", LIMITS), open_store(path, LIMITS)
    once.append(LIVE, [decode_json(body(range(SPANS)))])
    assert figures(store) == figures(once)
    store.close()
    once.close()
