"""What a store promises: durable, no repeats, datasets apart, readers cut to their window and stopped in time."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from analysis.span import SPAN_COLUMNS, Span, load_traces
from app.otlp.columns import Batch, Tally
from app.otlp.records import EventRecord, SpanRecord
from app.store import duckdb as duckdb_store
from app.store import open_store
from app.store.base import LIVE, Store, StoreBusy, StoreError
from app.store.connection import default_limits
from app.store.duckdb import DuckStore
from app.store.duplicates import RecentSpans, time_ranges
from app.store.recovery import open_database
from tests.app.spans_made import ALL, START_NS, batch, numbered, record
from tests.app.spelled_out import spelled_out

HOSTILE = [
    "'; drop table all_spans; --",
    "<script>alert(1)</script>",
    "\x00\u202e\U0001f4a3",
    "{{7*7}}",
    "$name",
    "x" * 9000,
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckStore]:
    opened = open_store(str(tmp_path / "spans.duckdb"))
    yield opened
    opened.close()


def counts(store: DuckStore, dataset_id: int = LIVE) -> dict[str, int]:
    with store.read(dataset_id, ALL, 10) as spans:
        return {
            view: spans.rows(f"select count(*) from {view}")[0][0]
            for view in ("spans", "trace_spans", "requests", "span_events", "span_links", "resources", "scopes")
        }


def test_what_was_appended_is_read(store: DuckStore) -> None:
    appended = store.append(LIVE, [numbered(1, 30)])
    assert (appended.inserted, appended.duplicates) == (30, 0)
    assert counts(store) == {
        "spans": 30,
        "trace_spans": 30,
        "requests": 30,
        "span_events": 10,
        "span_links": 6,
        "resources": 1,
        "scopes": 1,
    }
    with store.read(LIVE, ALL, 10) as spans:
        [row] = spans.rows(f"select {SPAN_COLUMNS} from spans where span_id = 7")
        span = Span._make(row)
        traces = load_traces(spans, [f"{1:032x}"])
    assert (span.trace_id, span.span_id, span.service, span.start_ns) == (f"{1:032x}", 7, "shop", START_NS + 7_000)
    assert (span.duration_ns, span.kind, span.endpoint, span.request_class) == (7_000, 2, "GET /1", "request")
    assert [one.span_id for one in traces[f"{1:032x}"]] == list(range(1, 31))


def test_every_column_of_a_batch_is_stored(store: DuckStore) -> None:
    one = numbered(15, 1)
    store.append(LIVE, [one])
    with store.read(LIVE, ALL, 10) as spans:
        for view, table in (
            ("trace_spans", spelled_out(one)),
            ("span_events", one.events),
            ("span_links", one.links),
            ("resources", one.resources),
            ("scopes", one.scopes),
        ):
            names = table.column_names
            assert spans.rows(f"select {', '.join(names)} from {view}") == [tuple(table.to_pylist()[0].values())]


def test_resent_spans_change_nothing(store: DuckStore) -> None:
    store.append(LIVE, [numbered(1, 50)])
    before, version = counts(store), store.version(LIVE)
    again = store.append(LIVE, [numbered(1, 20), numbered(11, 40)])
    assert (again.inserted, again.duplicates, again.duplicates_by_batch) == (0, 60, (20, 40))
    assert counts(store) == before
    assert store.version(LIVE) == version
    mixed = store.append(LIVE, [numbered(40, 20), numbered(50, 20)])
    assert (mixed.inserted, mixed.duplicates_by_batch) == (19, (11, 10))
    assert counts(store)["span_events"] == 69 // 3


def test_resent_spans_change_nothing_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "spans.duckdb")
    first = open_store(path)
    first.append(LIVE, [numbered(1, 50), numbered(100, 3, start_ns=5, end_ns=6)])
    first.close()
    second = open_store(path)
    assert second.append(LIVE, [numbered(100, 3, start_ns=5, end_ns=6), numbered(45, 10)]).inserted == 4
    assert counts(second)["spans"] == 57
    second.close()


def test_repeats_are_found_when_they_are_no_longer_recent(store: DuckStore) -> None:
    store.append(LIVE, [numbered(1, 10)])
    store._recent[LIVE] = RecentSpans(-1, limit=5)
    store._recent[LIVE].complete_after_ns = START_NS + 2**40
    assert store.append(LIVE, [numbered(1, 10)]).duplicates == 10
    for first in range(11, 31, 4):
        assert store.append(LIVE, [numbered(first, 4)]).inserted == 4
    assert store._recent[LIVE].complete_after_ns >= START_NS + 22_000
    assert store.append(LIVE, [numbered(1, 30)]).duplicates == 30


def test_same_span_with_other_content_is_kept(store: DuckStore) -> None:
    variants = [record(1), record(1, kind=3), record(1, attributes={"n": 2}), record(1, events=[EventRecord(1, "e")])]
    assert store.append(LIVE, [batch(variants), batch([record(1)], service="other")]).inserted == 5


def test_the_same_span_in_two_datasets_is_kept_in_both(store: DuckStore) -> None:
    store.append(LIVE, [numbered(1, 10)])
    dataset = store.import_dataset("file", "upload", "a.json", "otlp-json", [numbered(1, 10), numbered(6, 10)])
    assert (dataset.span_count, dataset.trace_count, dataset.tally.duplicates, dataset.tally.accepted) == (15, 1, 5, 15)
    assert dataset.tally.found == 20
    assert (dataset.first_start_ns, dataset.last_start_ns) == (START_NS + 1_000, START_NS + 15_000)
    assert counts(store)["spans"] == 10
    assert counts(store, dataset.dataset_id)["spans"] == 15
    assert counts(store, dataset.dataset_id)["resources"] == 1
    live, listed = store.datasets()
    assert listed == dataset
    assert (live.dataset_id, live.name, live.kind, live.span_count, live.trace_count) == (LIVE, "live", "live", 10, 1)


def test_a_failing_import_leaves_nothing(store: DuckStore) -> None:
    def breaking() -> Iterator[Batch]:
        yield numbered(1, 10)
        raise ValueError("line 7 is broken")

    with pytest.raises(ValueError, match="line 7"):
        store.import_dataset("file", "upload", "a.json", "otlp-json", breaking())
    assert [dataset.dataset_id for dataset in store.datasets()] == [LIVE]
    assert store.import_dataset("file", "upload", "", "x", [numbered(1, 10)]).span_count == 10


def test_appends_go_on_during_an_import(store: DuckStore) -> None:
    def slow() -> Iterator[Batch]:
        yield numbered(1, 10)
        store.append(LIVE, [numbered(1, 5)])
        yield numbered(11, 10)

    assert store.import_dataset("file", "upload", "", "x", slow()).span_count == 20
    assert counts(store)["spans"] == 5
    assert counts(store)["resources"] == 1


def test_deleting_and_ids_that_are_never_used_again(tmp_path: Path) -> None:
    path = str(tmp_path / "spans.duckdb")
    store = open_store(path)
    store.append(LIVE, [numbered(1, 10)])
    first = store.import_dataset("n" * 300, "upload", "", "x", [numbered(1, 10)])
    assert len(first.name) == 200
    store.delete_dataset(first.dataset_id)
    assert counts(store)["spans"] == 10
    assert counts(store, first.dataset_id)["spans"] == 0
    with pytest.raises(StoreError, match="no dataset"):
        store.delete_dataset(first.dataset_id)
    with pytest.raises(StoreError, match="no dataset"):
        store.append(first.dataset_id, [numbered(1, 1)])
    store.close()
    store = open_store(path)
    assert store.import_dataset("b", "upload", "", "x", [numbered(1, 10)]).dataset_id > first.dataset_id
    version = store.version(LIVE)
    store.delete_dataset(LIVE)
    assert counts(store)["spans"] == 0
    assert store.version(LIVE) != version
    assert store.append(LIVE, [numbered(1, 10)]).inserted == 10
    assert counts(store)["resources"] == 1
    store.close()


def test_hostile_names_come_back_as_they_were(store: DuckStore) -> None:
    spans = [record(n, name=text, attributes={text: text}, status_message=text) for n, text in enumerate(HOSTILE, 1)]
    store.append(LIVE, [batch(spans, service=HOSTILE[0], scope=HOSTILE[1])])
    with store.read(LIVE, ALL, 10) as reader:
        rows = reader.rows("select name, status_message, service, scope_name from spans order by span_id")
        assert rows == [(text, text, HOSTILE[0], HOSTILE[1]) for text in HOSTILE]
        for text in HOSTILE:
            assert reader.rows("select count(*) from spans where name = $name", name=text) == [(1,)]
        assert reader.rows("select count(*) from spans where name in (select unnest($names))", names=HOSTILE) == [(6,)]
    imported = store.import_dataset(HOSTILE[0], "upload", HOSTILE[2], "x", [batch(spans)])
    assert store.datasets()[1] == imported


def test_readers_and_the_writer_at_once(store: DuckStore) -> None:
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(10):
                total = counts(store)["spans"]
                assert total % 100 == 0
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for first in range(0, 2000, 100):
        store.append(LIVE, [numbered(first + 1, 100)])
    for thread in threads:
        thread.join()
    assert failures == []
    assert counts(store)["spans"] == 2000


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a.duckdb"))
    store.append(LIVE, [numbered(1, 3)])
    assert store.size_bytes() > 0
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.append(LIVE, [numbered(1, 3)])
    with pytest.raises(StoreError, match="closed"), store.read(LIVE, ALL, 1):
        pass


def test_a_store_in_memory() -> None:
    store, other = open_store(":memory:"), open_store(":memory:")
    promised: Store = store
    assert promised.version(LIVE) == store.version(LIVE)
    store.append(LIVE, [numbered(1, 3)])
    assert (counts(store)["spans"], counts(other)["spans"], store.size_bytes()) == (3, 0, 0)
    store.close()
    other.close()


def test_a_newer_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = str(tmp_path / "a.duckdb")
    open_store(path).close()
    with duckdb.connect(path) as connection:
        connection.execute("insert into _migrations values (7, '0007_later', 0)")
    with pytest.raises(StoreError, match=r"newer Spanwise \(schema 7, this one knows 3\): upgrade Spanwise or"):
        open_store(path)
    # Refusing must let go of the file.
    duckdb.connect(path).close()


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    duck, text = tmp_path / "other.duckdb", tmp_path / "text.duckdb"
    with duckdb.connect(str(duck)) as connection:
        connection.execute("create table mine (a integer)")
    text.write_text("not a database at all, but long enough to be one")
    lite = tmp_path / "lite.duckdb"
    with sqlite3.connect(lite) as database:
        database.execute("create table a (b)")
    database.close()
    for path, words in (
        (duck, "another program"),
        (text, "not a DuckDB file"),
        (lite, "not a DuckDB"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(StoreError, match=words):
            open_store(str(path))
    assert text.read_text().startswith("not a database")


def test_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "a.duckdb"
    open_store(str(path)).close()
    assert path.exists()


_HOLDER = """
import sys
from app.store import open_store
from tests.app.spans_made import numbered
store = open_store(sys.argv[1])
for first in range(1, 100000, 50):
    store.append(0, [numbered(first, 50)])
    print(first + 49, flush=True)
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE, text=True, cwd=root)


@pytest.mark.slow
def test_kill_after_an_acknowledgement_and_the_name_of_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    with _holder(path) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(StoreBusy, match=f"in use by process {holder.pid}"):
            open_store(str(path))
        for _ in range(5):
            acknowledged = int(holder.stdout.readline())
        holder.kill()
        rest = holder.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else acknowledged
    store = open_store(str(path))
    with store.read(LIVE, ALL, 10) as spans:
        [(total, distinct, last)] = spans.rows("select count(*), count(distinct span_id), max(span_id) from spans")
    assert total == distinct == last
    assert total % 50 == 0
    assert total >= acknowledged
    # The sender of a batch that was committed but not answered sends it again.
    assert store.append(LIVE, [numbered(1, total + 50)]).inserted == 50
    store.close()


class _Commits:
    """The writer's connection, whose next commit is durable but says that its checkpoint failed."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        result = self._connection.execute(sql, *parameters)
        if sql == "commit":
            raise duckdb.FatalException("FATAL Error: the COMMIT succeeded and is durable, autocheckpoint failed")
        return result


def test_a_failed_checkpoint_after_a_durable_commit(store: DuckStore) -> None:
    store.append(LIVE, [numbered(1, 10)])
    store._writer = _Commits(store._writer)  # type: ignore[assignment]
    assert store.append(LIVE, [numbered(11, 10)]).inserted == 10
    assert store.append(LIVE, [numbered(11, 20)]).inserted == 10
    assert counts(store)["spans"] == 30


def test_opening_again_is_tried_until_it_works(store: DuckStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks meanwhile is told to come back; what was acknowledged before is there."""
    store.append(LIVE, [numbered(1, 10)])
    works, tried = open_database, 0

    def fails_twice(*arguments: Any) -> duckdb.DuckDBPyConnection:
        nonlocal tried
        tried += 1
        if tried <= 2:
            raise StoreError("no room for a log")
        return works(*arguments)

    monkeypatch.setattr(duckdb_store, "open_database", fails_twice)
    monkeypatch.setattr(duckdb_store, "_OPEN_AGAIN_EVERY_S", 0.0)
    store._writer = _Commits(store._writer)  # type: ignore[assignment]
    assert store.append(LIVE, [numbered(11, 10)]).inserted == 10
    with pytest.raises(StoreBusy, match="could not be opened again yet: no room for a log"):
        store.datasets()
    assert (tried, store.append(LIVE, [numbered(11, 20)]).inserted) == (2, 10)
    assert tried == 3
    assert counts(store)["spans"] == 30


def test_opening_again_is_not_tried_by_everyone(store: DuckStore, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0

    def fails(*_: Any) -> duckdb.DuckDBPyConnection:
        nonlocal tried
        tried += 1
        raise StoreError("no room for a log")

    monkeypatch.setattr(duckdb_store, "open_database", fails)
    monkeypatch.setattr(duckdb_store, "_OPEN_AGAIN_EVERY_S", 3600.0)
    store._writer = _Commits(store._writer)  # type: ignore[assignment]
    store.append(LIVE, [numbered(1, 10)])
    for attempt in (store.datasets, lambda: store.append(LIVE, [numbered(1, 10)]), lambda: counts(store)):
        with pytest.raises(StoreBusy, match="no room for a log"):
            attempt()
    assert tried == 1


def test_no_room_on_the_disk_is_said_before_the_engine_meets_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a.duckdb"), replace(default_limits(), min_free_bytes=2**60))
    with pytest.raises(StoreBusy, match="MiB of disk are free"):
        store.append(LIVE, [numbered(1, 3)])
    with pytest.raises(StoreBusy, match="MiB of disk are free"):
        store.import_dataset("a", "upload", "", "x", [numbered(1, 3)])
    assert counts(store)["spans"] == 0
    store.close()


def test_time_ranges_leave_the_widest_gaps_out() -> None:
    import numpy as np

    starts = np.array([5, START_NS, START_NS + 10, START_NS + 5_000_000_000], np.int64)
    assert time_ranges(starts) == [(5, 5), (START_NS, START_NS + 10), (START_NS + 5_000_000_000,) * 2]
    many = np.arange(100, dtype=np.int64) * 2_000_000_000
    assert len(time_ranges(many)) == 8
    assert (time_ranges(many)[0][0], time_ranges(many)[-1][1]) == (0, 198_000_000_000)


def test_an_empty_append_and_an_empty_import(store: DuckStore) -> None:
    empty = batch([])
    assert store.append(LIVE, [empty]).inserted == 0
    assert store.import_dataset("none", "upload", "", "x", []).span_count == 0
    assert store.datasets()[1].tally == Tally()


def test_times_at_the_ends_of_their_range(store: DuckStore) -> None:
    ends = [
        record(1, start_ns=0, end_ns=2**63 - 1, start_known=True),
        record(2, start_ns=2**63 - 1, end_ns=2**63 - 1),
        record(3, start_ns=1, end_ns=1),
    ]
    store.append(LIVE, [batch(ends)])
    with store.read(LIVE, ALL, 10) as spans:
        rows = spans.rows("select start_ns, duration_ns from trace_spans order by start_ns")
    assert rows == [(0, 2**63 - 1), (1, 0), (2**63 - 1, 0)]
    assert isinstance(ends[0], SpanRecord)
