"""What spans have in common is stored once and found again, whatever is committed, rolled back, forgotten or older."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from app.otlp.columns import TABLES, Batch
from app.store import open_store
from app.store.base import LIVE, StoreError
from app.store.duckdb import DuckStore
from app.store.migrate import known_migrations
from tests.app.spans_made import ALL, batch, numbered, record
from tests.app.spelled_out import rows_of, spelled_out


def stored(store: DuckStore, one: Batch, dataset_id: int = LIVE) -> list[dict[str, object]]:
    names = spelled_out(one).column_names
    with store.read(dataset_id, ALL, 10) as spans:
        return [
            dict(zip(names, row, strict=True))
            for row in spans.rows(f"select {', '.join(names)} from trace_spans order by span_id")
        ]


def shape_rows(path: Path) -> list[int]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return [one for (one,) in connection.execute("select shape_id from all_shapes order by all").fetchall()]


def test_each_shape_is_stored_once_in_a_run(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    store = open_store(str(path))
    store.append(LIVE, [numbered(1, 12), numbered(13, 7)])
    store.append(LIVE, [numbered(20, 12)])
    dataset = store.import_dataset("f", "upload", "f", "otlp-json", [numbered(1, 12), numbered(13, 3)])
    whole = numbered(1, 31)
    assert stored(store, whole) == rows_of(whole)
    assert stored(store, whole, dataset.dataset_id) == rows_of(numbered(1, 15))
    store.close()
    shapes = shape_rows(path)
    assert len(shapes) == len(set(shapes)) == numbered(1, 31).shapes.num_rows


def test_ids_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    for first in (1, 13):
        store = open_store(str(path))
        store.append(LIVE, [numbered(first, 12)])
        store.close()
    shapes = shape_rows(path)
    assert len(shapes) == len(set(shapes)) == 2 * numbered(1, 12).shapes.num_rows
    store = open_store(str(path))
    assert stored(store, numbered(1, 24)) == rows_of(numbered(1, 24))
    store.close()


def test_shapes_of_a_transaction_that_failed_are_stored_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path / "a.duckdb"))
    with monkeypatch.context() as patch:
        patch.setattr(store, "_commit", lambda connection: connection.execute("select error('no room')").fetchall())
        with pytest.raises(StoreError, match="no room"):
            store.append(LIVE, [numbered(1, 12)])
    store.append(LIVE, [numbered(1, 12)])
    assert stored(store, numbered(1, 12)) == rows_of(numbered(1, 12))
    store.close()


def test_an_import_that_failed_leaves_no_id_behind(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a.duckdb"))

    def broken() -> object:
        yield numbered(1, 12)
        raise ValueError("line 13")

    with pytest.raises(ValueError, match="line 13"):
        store.import_dataset("f", "upload", "f", "otlp-json", broken())  # type: ignore[arg-type]
    store.append(LIVE, [numbered(1, 12)])
    assert stored(store, numbered(1, 12)) == rows_of(numbered(1, 12))
    store.close()


def test_shapes_that_nothing_uses_go_with_the_dataset(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    store = open_store(str(path))
    kept, gone = numbered(1, 12), batch([record(50, name="only here"), record(51, name="and here")])
    store.append(LIVE, [kept])
    dataset = store.import_dataset("f", "upload", "f", "otlp-json", [gone, kept])
    store.delete_dataset(dataset.dataset_id)
    store.append(LIVE, [gone])
    assert stored(store, kept) == rows_of(kept) + rows_of(gone)
    store.close()


def test_forgotten_shapes_get_new_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.store.shapes._KEPT", 5)
    store = open_store(str(tmp_path / "a.duckdb"))
    many = [batch([record(number, name=f"GET /{number % 23}")]) for number in range(1, 60)]
    for first in range(0, 59, 10):
        store.append(LIVE, many[first : first + 10])
    dataset = store.import_dataset("f", "upload", "f", "otlp-json", many)
    expected = [row for one in many for row in rows_of(one)]
    assert stored(store, many[0]) == stored(store, many[0], dataset.dataset_id) == expected
    store.close()


def test_a_file_of_the_wide_layout_is_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "old.duckdb"
    one = batch([record(number, name=f"GET /{number % 7}", status_code=number % 3) for number in range(1, 100)])
    spans = spelled_out(one)
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table _migrations (version integer, name varchar, applied_ns bigint)")
        [(version, file), *_] = known_migrations()
        connection.execute(file.read_text())
        connection.execute("insert into _migrations values (?, ?, 0)", [version, file.stem])
        for name, table in (("spans", spans), ("resources", one.resources), ("scopes", one.scopes)):
            connection.register("incoming", table)
            own = f"{LIVE} as dataset_id, " if name == "spans" else ""
            connection.execute(f"insert into all_{name} by name select {own}* from incoming")
    store = open_store(str(path))
    assert stored(store, one) == rows_of(one)
    assert store.append(LIVE, [one]).duplicates == 99
    store.append(LIVE, [batch([record(100)])])
    assert len(stored(store, one)) == 100
    store.close()


def test_tables_have_the_columns_of_batches_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    open_store(str(path)).close()
    with duckdb.connect(str(path), read_only=True) as connection:
        for name, schema in TABLES.items():
            stored_names = [row[0] for row in connection.execute(f"describe all_{name}").fetchall()]
            own = ["dataset_id"] if name in ("spans", "events", "links") else []
            renamed = {"shape": "shape_id", "shape_hash": "shape_id"}
            assert stored_names == own + [renamed.get(column, column) for column in schema.names]
