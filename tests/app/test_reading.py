"""What a handle for analyses promises: cut to its window, stopped in time, read-only, one snapshot, thinned evenly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from analysis.errors import QueryInterrupted
from analysis.span import SPAN_COLUMNS, Thinned, Window
from app.otlp.columns import Batch
from app.store import open_store, reading
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


def scattered(count: int, spread_ns: int, seed: int = 1) -> Batch:
    """Spans that start at random times in two bursts, which lie as far apart as each is long."""
    starts = np.random.default_rng(seed).integers(0, spread_ns, count)
    starts[count // 2 :] += 2 * spread_ns
    return batch(
        [
            record(number + 1, kind=2, start_ns=START_NS + start, end_ns=START_NS + start + 1_000)
            for number, start in enumerate(starts.tolist())
        ]
    )


def thinned_ids(store: DuckStore, most: int, window: Window = ALL) -> tuple[Thinned, list[int]]:
    with store.read(LIVE, window, 10) as spans:
        with spans.thinned(most) as kept:
            ids = [row[0] for row in spans.rows("select span_id from spans order by span_id")]
            assert spans.rows("select count(*) from requests") == [(len(ids),)]
        assert spans.rows("select count(*) from spans") == [(kept.total,)]
    return kept, ids


def test_a_window_with_few_spans_is_looked_at_whole(store: DuckStore) -> None:
    store.append(LIVE, [numbered(1, 30)])
    kept, ids = thinned_ids(store, 30)
    assert (kept, kept.whole, kept.share) == (Thinned(30, 30, 1), True, 1.0)
    assert len(ids) == 30


def test_a_part_is_spread_over_all_spans(store: DuckStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_ONE_IN", 7)
    store.append(LIVE, [scattered(8_000, 10**9)])
    # A clock that is wrong by decades must not decide where the slices lie.
    store.append(LIVE, [batch([record(9_001, kind=2, start_ns=1_000, end_ns=2_000)])])
    everything = Window(0, 2**62)
    kept, ids = thinned_ids(store, 2_000, everything)
    assert (kept.total, kept.slices, kept.whole) == (8_001, 16, False)
    assert kept.kept == len(ids) == pytest.approx(2_000, rel=0.15)
    early = sum(span_id <= 4_000 for span_id in ids)
    assert early / len(ids) == pytest.approx(0.5, abs=0.1)
    assert thinned_ids(store, 2_000, everything) == (kept, ids)


@pytest.mark.parametrize("start_ns", [START_NS // 1009 * 1009, START_NS // 1009 * 1009 + 1])
def test_spans_that_all_start_at_once_are_looked_at_whole(store: DuckStore, start_ns: int) -> None:
    same = [record(number, kind=2, start_ns=start_ns, end_ns=start_ns + 1) for number in range(1, 101)]
    store.append(LIVE, [batch(same)])
    kept, ids = thinned_ids(store, 10)
    assert (kept, len(ids)) == (Thinned(100, 100, 1), 100)


def test_a_failure_inside_a_part_gives_the_whole_window_back(store: DuckStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_ONE_IN", 7)
    store.append(LIVE, [scattered(2_000, 10**9)])
    with store.read(LIVE, ALL, 10) as spans:
        with pytest.raises(StoreError), spans.thinned(500):
            spans.rows("select no_such_column from spans")
        assert spans.rows("select count(*) from spans") == [(2_000,)]
