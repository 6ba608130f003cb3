"""Batches into tables: duplicates left out, resources and scopes once, all from Arrow without a copy by row."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa

from app.otlp.columns import RESOURCES, SCOPES, TABLES, Batch
from app.store.base import Appended
from app.store.duplicates import Hashes, RecentSpans, Times, first_of_each, time_ranges
from app.store.shapes import ShapesOfTransaction

if TYPE_CHECKING:
    from collections.abc import Iterator

_KNOWN_REFERENCES = 65_536


@dataclass(frozen=True)
class Written:
    """What `write` inserted; to be remembered once it is committed."""

    appended: Appended
    hashes: Hashes
    starts: Times


class KnownReferences:
    """Ids of resources and scopes that are stored for certain; bounded, and only a shortcut."""

    def __init__(self) -> None:
        self._ids: set[tuple[str, int]] = set()

    def missing(self, table: pa.Table, column: str) -> pa.Table:
        """The rows of the table that may not be stored yet, each id once."""
        rows: dict[int, int] = {}
        for row, value in enumerate(table[column].to_pylist()):
            if (column, value) not in self._ids:
                rows.setdefault(value, row)
        return table.take(pa.array(list(rows.values()), pa.int64()))

    def add(self, batches: Sequence[Batch]) -> None:
        """Notes what a committed transaction stored."""
        if len(self._ids) > _KNOWN_REFERENCES:
            self._ids.clear()
        for name, column in (("resources", "resource_id"), ("scopes", "scope_id")):
            for table in _tables(batches, name):
                self._ids.update((column, value) for value in table[column].to_pylist())

    def clear(self) -> None:
        """Forgets all, after rows were deleted."""
        self._ids.clear()


class References:
    """Resources and scopes of many batches, each once."""

    def __init__(self) -> None:
        self._resources: dict[int, pa.Table] = {}
        self._scopes: dict[int, pa.Table] = {}

    def add(self, batch: Batch) -> None:
        for table, column, kept in (
            (batch.resources, "resource_id", self._resources),
            (batch.scopes, "scope_id", self._scopes),
        ):
            for row, value in enumerate(table[column].to_pylist()):
                if value not in kept:
                    kept[value] = table.slice(row, 1)

    def batch(self) -> Batch:
        """A batch of the resources and scopes alone."""
        tables = {name: schema.empty_table() for name, schema in TABLES.items()}
        tables["resources"] = pa.concat_tables([RESOURCES.empty_table(), *self._resources.values()])
        tables["scopes"] = pa.concat_tables([SCOPES.empty_table(), *self._scopes.values()])
        return Batch(**tables)


def write(
    connection: duckdb.DuckDBPyConnection,
    dataset_id: int,
    batches: Sequence[Batch],
    recent: RecentSpans,
    shapes: ShapesOfTransaction,
) -> Written:
    """Inserts the spans, events and links of all batches that the dataset does not hold; inside a transaction."""
    spans = pa.concat_tables([batch.spans for batch in batches])
    hashes, starts = spans["span_hash"].to_numpy(), spans["start_ns"].to_numpy()
    new = first_of_each(hashes) & ~recent.known(hashes)
    unsure = np.flatnonzero(new & (starts <= recent.complete_after_ns))
    if len(unsure):
        new[unsure[_stored(connection, dataset_id, spans.take(pa.array(unsure)))]] = False
    sizes = np.cumsum([batch.span_count for batch in batches])[:-1]
    duplicates = tuple(int(np.count_nonzero(~part)) for part in np.split(new, sizes))
    kept = hashes[new]
    if len(kept):
        columns = pa.chunked_array(shapes.columns(batches), pa.uint64())
        table = spans.set_column(spans.schema.get_field_index("shape"), "shape_id", columns)
        if (rows := shapes.rows()) is not None:
            _insert(connection, "all_shapes", rows)
        # In one piece: an insert works through each piece by itself, and pieces of a body each take 1.4 times as long.
        _insert(
            connection, "all_spans", (table if new.all() else table.filter(pa.array(new))).combine_chunks(), dataset_id
        )
    for name in ("events", "links"):
        # A repeat that was sent twice at once brings its events twice: one batch's rows for a hash are enough.
        tables, rest = [], kept
        for batch in batches:
            table = getattr(batch, name)
            if table.num_rows:
                column = table["span_hash"].to_numpy()
                tables.append(table.filter(pa.array(np.isin(column, rest))))
                rest = rest[~np.isin(rest, column)]
        if tables:
            _insert(connection, f"all_{name}", pa.concat_tables(tables), dataset_id)
    return Written(Appended(len(kept), sum(duplicates), duplicates), kept, starts[new])


def write_references(connection: duckdb.DuckDBPyConnection, batches: Sequence[Batch], known: KnownReferences) -> None:
    """Inserts resources and scopes that are not stored; inside a transaction, by the one writer only."""
    for name, column in (("resources", "resource_id"), ("scopes", "scope_id")):
        table = known.missing(pa.concat_tables(_tables(batches, name)), column)
        if table.num_rows:
            with _registered(connection, table):
                connection.execute(
                    f"insert into all_{name} by name select * from incoming anti join all_{name} using ({column})"  # noqa: S608 - constants
                )


def _tables(batches: Sequence[Batch], name: str) -> list[pa.Table]:
    """A table of each batch; one that several share, once."""
    return list({id(table): table for table in (getattr(batch, name) for batch in batches)}.values())


def _stored(connection: duckdb.DuckDBPyConnection, dataset_id: int, spans: pa.Table) -> list[int]:
    """Positions of the spans that the dataset holds; one join over the row groups of their start times."""
    columns = ["trace_id", "span_id", "start_ns", "span_hash"]
    table = spans.select(columns).append_column("position", pa.array(range(spans.num_rows), pa.int64()))
    between = " or ".join(
        f"stored.start_ns between {low} and {high}" for low, high in time_ranges(spans["start_ns"].to_numpy())
    )
    with _registered(connection, table):
        rows = connection.execute(
            f"""
            select distinct position from incoming
            join all_spans as stored using (span_hash, start_ns, trace_id, span_id)
            where stored.dataset_id = {int(dataset_id)} and ({between})
            """  # noqa: S608 - whole numbers only
        ).fetchall()
    return [position for (position,) in rows]


def _insert(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table, dataset_id: int | None = None) -> None:
    """Inserts a table whose columns are the stored one's, in their order but for `dataset_id`, which is the first."""
    if table.num_rows:
        if dataset_id is not None:
            table = table.add_column(0, "dataset_id", pa.array(np.full(table.num_rows, dataset_id, np.int32)))
        # No view of it is registered: making and dropping one took 0.6 ms of the 1.9 that a small insert takes.
        connection.from_arrow(table).insert_into(name)


@contextmanager
def _registered(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> Iterator[None]:
    connection.register("incoming", table)
    try:
        yield
    finally:
        connection.unregister("incoming")
