"""What a handle for analyses promises: cut to its window, stopped in time, read-only, one snapshot, thinned evenly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.errors import QueryInterrupted
from analysis.span import SPAN_COLUMNS, Thinned, Window
from app.otlp.columns import Batch
from app.store import open_store
from app.store.base import LIVE, StoreError
from app.store.duckdb import DuckStore
from tests.app.spans_made import ALL, START_NS, batch, numbered, record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckStore]:
    opened = open_store(str(tmp_path / "spans.duckdb"))
    yield opened
    opened.close()


def count(store: DuckStore, view: str) -> int:
    with store.read(LIVE, ALL, 10) as spans:
        return int(spans.rows(f"select count(*) from {view}")[0][0])


def test_the_window_cuts_spans_and_requests_only(store: DuckStore) -> None:
    store.append(LIVE, [numbered(1, 30)])
    with store.read(LIVE, Window(START_NS + 10_000, START_NS + 20_000), 10) as spans:
        assert spans.window == Window(START_NS + 10_000, START_NS + 20_000)
        assert spans.rows("select min(span_id), max(span_id) from spans") == [(10, 19)]
        assert spans.rows("select count(*) from requests") == [(10,)]
        assert spans.rows("select count(*) from trace_spans") == [(30,)]


def test_candidates_are_requests_only_without_a_parent_in_their_service(store: DuckStore) -> None:
    store.append(LIVE, [batch([record(1, kind=2)])])
    assert count(store, "requests") == 1
    inner = [
        record(2, kind=1, parent_span_id=1, flags=0),
        record(3, kind=1, parent_span_id=99, flags=0),
    ]
    store.append(LIVE, [batch(inner), batch([record(4, kind=1, parent_span_id=1, flags=0)], service="other")])
    with store.read(LIVE, ALL, 10) as spans:
        assert spans.rows("select span_id from requests order by 1") == [(1,), (3,), (4,)]
    # The parent may come later.
    store.append(LIVE, [batch([record(99, kind=1)])])
    with store.read(LIVE, ALL, 10) as spans:
        assert spans.rows("select span_id from requests order by 1") == [(1,), (4,), (99,)]


def test_quantiles_are_exact(store: DuckStore) -> None:
    store.append(LIVE, [numbered(1, 101)])
    with store.read(LIVE, ALL, 10) as spans:
        [row] = spans.rows(
            f"select {spans.quantile('duration_ns', 0.5)}, {spans.quantile('duration_ns', 1e-05)} from spans"
        )
        assert row == (51_000, pytest.approx(1_001))
        for q in (-0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match="between 0 and 1"):
                spans.quantile("duration_ns", q)


_HEAVY = "select count(*) from range(100000000) a, range(1000) b where a.range * b.range % 7 = 1"


def test_a_query_ends_at_its_deadline(store: DuckStore) -> None:
    began = time.monotonic()
    with store.read(LIVE, ALL, 0.2) as spans:
        assert spans.rows("select 1") == [(1,)]
        with pytest.raises(QueryInterrupted, match="time limit"):
            spans.rows(_HEAVY)
        with pytest.raises(QueryInterrupted):
            spans.rows("select 1")
    assert time.monotonic() - began < 3
    assert count(store, "spans") == 0


def test_a_query_ends_when_its_reader_leaves(store: DuckStore) -> None:
    with store.read(LIVE, ALL, 60) as spans:
        threading.Timer(0.1, spans.interrupt).start()
        began = time.monotonic()
        with pytest.raises(QueryInterrupted, match="left"):
            spans.rows(_HEAVY)
        assert time.monotonic() - began < 3


def test_a_failed_query_does_not_spoil_the_next(store: DuckStore) -> None:
    with store.read(LIVE, ALL, 10) as spans:
        with pytest.raises(StoreError):
            spans.rows("select no_such_column from spans")
        assert spans.rows("select 1") == [(1,)]


def test_readers_cannot_write_or_reach_files(store: DuckStore, tmp_path: Path) -> None:
    store.append(LIVE, [numbered(1, 3)])
    with store.read(LIVE, ALL, 10) as spans:
        for sql in (
            "delete from all_spans",
            "create table x (a int)",
            "select * from read_text('/etc/hostname')",
            f"copy spans to '{tmp_path / 'x.csv'}'",
            "set enable_external_access = true",
            f"attach '{tmp_path / 'y.duckdb'}'",
        ):
            with pytest.raises(StoreError):
                spans.rows(sql)
    assert count(store, "spans") == 3


def test_a_reader_sees_one_snapshot(store: DuckStore) -> None:
    store.append(LIVE, [numbered(1, 3)])
    with store.read(LIVE, ALL, 10) as spans:
        assert spans.rows("select count(*) from spans") == [(3,)]
        store.append(LIVE, [numbered(4, 3)])
        assert spans.rows("select count(*) from spans") == [(3,)]
    assert count(store, "spans") == 6


def test_columns_give_what_rows_give(store: DuckStore) -> None:
    store.append(LIVE, [numbered(1, 50), batch([record(51, kind=2)], service="other")])
    sql = f"select {SPAN_COLUMNS} from spans order by span_id"
    with store.read(LIVE, ALL, 10) as spans:
        assert spans.arrays(sql) == spans.rows(sql)
        for few in ("select name from spans where false", "select nullif(span_id, 1), nullif(name, name) from spans"):
            assert spans.arrays(few) == spans.rows(few)


def many(traces: int) -> Batch:
    """Four spans a trace, the last one hours after the others."""
    return batch(
        record(
            4 * trace + number,
            trace=trace << 64 | 1,
            start_ns=START_NS + number * number * 10**12 + trace,
            end_ns=2**62,
        )
        for trace in range(1, traces + 1)
        for number in range(4)
    )


def thinned_traces(store: DuckStore, most: int, window: Window = ALL) -> tuple[Thinned, list[tuple[str, int]]]:
    """What is kept, as traces with their numbers of spans."""
    with store.read(LIVE, window, 10) as spans:
        with spans.thinned(most) as kept:
            found = spans.rows("select trace_id::varchar, count(*) from spans group by all order by all")
            assert spans.rows("select count(*) from requests") == [(kept.kept,)]
            assert spans.rows("select count(*) from trace_spans") == [(kept.total,)]
        assert spans.rows("select count(*) from spans") == [(kept.total,)]
    return kept, found


def test_a_window_with_few_spans_is_looked_at_whole(store: DuckStore) -> None:
    store.append(LIVE, [many(10)])
    kept, traces = thinned_traces(store, 40)
    assert (kept, kept.whole, kept.share) == (Thinned(40, 40), True, 1.0)
    assert len(traces) == 10


def test_a_part_is_whole_traces_the_same_each_time(store: DuckStore) -> None:
    store.append(LIVE, [many(3_000)])
    kept, traces = thinned_traces(store, 3_000)
    assert (kept.total, kept.whole) == (12_000, False)
    assert kept.kept == 4 * len(traces) == pytest.approx(3_000, rel=0.1)
    assert {spans for _, spans in traces} == {4}
    assert kept.share == kept.kept / 12_000
    assert thinned_traces(store, 3_000) == (kept, traces)
    fewer = thinned_traces(store, 300)[1]
    assert set(fewer) < set(traces)


def test_a_part_is_cut_to_the_window(store: DuckStore) -> None:
    store.append(LIVE, [many(1_000)])
    with store.read(LIVE, Window(START_NS, START_NS + 10**11), 10) as spans, spans.thinned(500) as kept:
        assert kept.total == 1_000
        assert spans.rows("select count(*), max(start_ns) < $end from spans", end=START_NS + 10**11) == [
            (kept.kept, True)
        ]


def test_a_failure_inside_a_part_gives_the_whole_window_back(store: DuckStore) -> None:
    store.append(LIVE, [many(500)])
    with store.read(LIVE, ALL, 10) as spans:
        with pytest.raises(StoreError), spans.thinned(500):
            spans.rows("select no_such_column from spans")
        assert spans.rows("select count(*) from spans") == [(2_000,)]
