"""The list of datasets and what is counted for it."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import duckdb

from app.otlp.attributes import clean
from app.otlp.columns import Tally
from app.store.base import LIVE, Dataset, StoreError

_NAME_CHARACTERS = 200
_COLUMNS = (
    "dataset_id, name, kind, source, format, created_ns, span_count, trace_count, first_start_ns, last_start_ns, tally"
)


def listed(connection: duckdb.DuckDBPyConnection) -> list[Dataset]:
    """All datasets as they are recorded, the live one first, then newest first."""
    rows = connection.execute(
        f"select {_COLUMNS} from datasets order by dataset_id <> {LIVE}, created_ns desc, dataset_id desc"  # noqa: S608
    ).fetchall()
    names = _COLUMNS.split(", ")
    return [Dataset(**dict(zip(names, row, strict=True)) | {"tally": Tally.from_json(row[-1])}) for row in rows]


def new_id(connection: duckdb.DuckDBPyConnection) -> int:
    """An id that no dataset ever had."""
    # fetchall everywhere: since DuckDB 2.0 a result that is not read to its end keeps the connection busy.
    [(dataset_id,)] = connection.execute("select nextval('dataset_ids')").fetchall()
    return int(dataset_id)


def insert(
    connection: duckdb.DuckDBPyConnection,
    dataset_id: int,
    name: str,
    kind: str,
    source: str,
    format_name: str,
    tally: Tally,
) -> Dataset:
    """Records a dataset whose spans were inserted in the same transaction."""
    dataset = counted(
        connection,
        Dataset(
            dataset_id,
            clean(name)[:_NAME_CHARACTERS],
            kind,
            clean(source)[:_NAME_CHARACTERS],
            format_name,
            time.time_ns(),
            0,
            0,
            0,
            0,
            tally,
        ),
    )
    values = [getattr(dataset, column) for column in _COLUMNS.split(", ")[:-1]]
    connection.execute(
        f"insert into datasets ({_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
        [*values, json.dumps(tally.to_json())],
    )
    return dataset


def counted(connection: duckdb.DuckDBPyConnection, dataset: Dataset) -> Dataset:
    """The dataset with its spans and traces counted."""
    [(spans, first_ns, last_ns)] = connection.execute(
        "select count(*), coalesce(min(start_ns), 0), coalesce(max(start_ns), 0) from all_spans where dataset_id = ?",
        [dataset.dataset_id],
    ).fetchall()
    # A tenth of the rows of all_spans: 40 instead of 100 ms at 10 million spans.
    [(traces,)] = connection.execute(
        "select count(distinct trace_id) from all_trace_times where dataset_id = ?", [dataset.dataset_id]
    ).fetchall()
    return replace(dataset, span_count=spans, trace_count=traces, first_start_ns=first_ns, last_start_ns=last_ns)


def count_again(connection: duckdb.DuckDBPyConnection, dataset_id: int) -> None:
    """Records the counts of a dataset that more spans were added to."""
    dataset = next((one for one in listed(connection) if one.dataset_id == dataset_id), None)
    if dataset is None:
        raise StoreError(f"there is no dataset {dataset_id}: it may have been deleted")
    now = counted(connection, dataset)
    connection.execute(
        """
        update datasets set span_count = ?, trace_count = ?, first_start_ns = ?, last_start_ns = ?
        where dataset_id = ?
        """,
        [now.span_count, now.trace_count, now.first_start_ns, now.last_start_ns, dataset_id],
    )


def latest_start_ns(connection: duckdb.DuckDBPyConnection, dataset_id: int) -> int:
    """The latest start time in the dataset, -1 where it has no spans."""
    [(latest_ns,)] = connection.execute(
        "select coalesce(max(start_ns), -1) from all_spans where dataset_id = ?", [dataset_id]
    ).fetchall()
    return int(latest_ns)


def has_candidates(connection: duckdb.DuckDBPyConnection, dataset_id: int) -> bool:
    """Whether any span of the dataset is a request only if its parent is in another service."""
    rows = connection.execute(
        """
        select 1 from all_spans
        semi join (select shape_id from all_shapes where request_class = 'candidate') using (shape_id)
        where dataset_id = ? limit 1
        """,
        [dataset_id],
    ).fetchall()
    return bool(rows)


def delete(connection: duckdb.DuckDBPyConnection, dataset_id: int) -> None:
    """Deletes a dataset's rows, and shapes, resources and scopes that nothing uses any more; inside a transaction."""
    known = connection.execute("select 1 from datasets where dataset_id = ?", [dataset_id]).fetchall()
    if not known:
        raise StoreError(f"there is no dataset {dataset_id}: it may have been deleted")
    for table in ("all_spans", "all_events", "all_links", "all_trace_times"):
        connection.execute(f"delete from {table} where dataset_id = ?", [dataset_id])  # noqa: S608 - a constant
    if dataset_id != LIVE:
        connection.execute("delete from datasets where dataset_id = ?", [dataset_id])
    for table, column, users in (
        ("all_shapes", "shape_id", "all_spans"),
        ("all_resources", "resource_id", "all_shapes"),
        ("all_scopes", "scope_id", "all_shapes"),
    ):
        connection.execute(f"delete from {table} where {column} not in (select {column} from {users})")  # noqa: S608
