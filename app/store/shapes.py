"""Ids of shapes: a batch's own numbering becomes the table's, without a look into the table."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from app.otlp.columns import Batch

_KEPT = 65_536

Ids = npt.NDArray[np.uint64]


class ShapeIds:
    """The ids of the shapes stored last, by hash, and the next free id.

    A shape that is not among them gets a new row, though it may have one: looking for that would cost a scan a commit.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        [(last,)] = connection.execute("select coalesce(max(shape_id), 0) from all_shapes").fetchall()
        self._next = int(last) + 1
        self._known: dict[int, int] = {}
        self._lock = threading.Lock()

    def of(self, hashes: Iterable[int]) -> tuple[dict[int, int], list[int]]:
        """The id for each hash, and which hashes got a new one."""
        ids: dict[int, int] = {}
        new: list[int] = []
        with self._lock:
            for one in hashes:
                known = self._known.get(one)
                if known is None:
                    known, self._next = self._next, self._next + 1
                    new.append(one)
                ids[one] = known
        return ids, new

    def add(self, ids: dict[int, int]) -> None:
        """Notes shapes whose rows are committed."""
        with self._lock:
            if len(self._known) + len(ids) > _KEPT:
                self._known.clear()
            self._known.update(ids)

    def clear(self) -> None:
        """Forgets all, after rows were deleted."""
        with self._lock:
            self._known.clear()


class ShapesOfTransaction:
    """The shapes that one transaction uses; those it adds are known to others only after its commit."""

    def __init__(self, ids: ShapeIds) -> None:
        self._ids = ids
        self._used: dict[int, int] = {}
        self._new: dict[int, int] = {}
        self._rows: list[pa.Table] = []

    def columns(self, batches: Sequence[Batch]) -> list[pa.Array]:
        """The column `shape_id` of each batch's spans; batches that share their table of shapes pay for it once."""
        tables: dict[int, Ids] = {}
        columns = []
        for batch in batches:
            ids = tables.get(id(batch.shapes))
            if ids is None:
                ids = tables[id(batch.shapes)] = self._of(batch.shapes)
            columns.append(pa.array(ids[batch.spans["shape"].to_numpy()]))
        return columns

    def rows(self) -> pa.Table | None:
        """The rows to insert for what `columns` was asked since the last call; None where there are none."""
        tables, self._rows = self._rows, []
        return pa.concat_tables(tables) if tables else None

    def committed(self) -> None:
        """The transaction is durable."""
        self._ids.add(self._new)

    def _of(self, shapes: pa.Table) -> Ids:
        hashes = shapes["shape_hash"].to_pylist()
        if len(self._used) > _KEPT:
            self._used.clear()
            self._new.clear()
        places = {one: place for place, one in enumerate(hashes) if one not in self._used}
        ids, new = self._ids.of(places)
        self._used |= ids
        if new:
            self._new |= {one: ids[one] for one in new}
            table = shapes.take(pa.array([places[one] for one in new]))
            column = pa.array([ids[one] for one in new], pa.uint64())
            self._rows.append(table.set_column(0, "shape_id", column))
        return np.array([self._used[one] for one in hashes], np.uint64)
