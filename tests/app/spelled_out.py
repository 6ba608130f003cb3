"""Spans of a batch with every column that views show."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from app.otlp.columns import TABLES, Batch
from app.otlp.shapes import shape_hash


def spelled_out(batch: Batch) -> pa.Table:
    """The spans, each with the columns of its shape instead of the shape's place."""
    table = batch.spans.drop_columns("shape")
    shapes = batch.shapes.drop_columns("shape_hash").take(batch.spans["shape"])
    for name in shapes.column_names:
        table = table.append_column(name, shapes[name])
    return table


def rows_of(batch: Batch) -> list[dict[str, Any]]:
    """The same as rows."""
    return list(spelled_out(batch).to_pylist())


def assert_same(left: Batch, right: Batch) -> None:
    """Both hold the same rows in the same order, wherever the shapes stand."""
    for name, schema in TABLES.items():
        ours, theirs = getattr(left, name), getattr(right, name)
        assert ours.schema == theirs.schema == schema
        ours.validate(full=True)
        if name not in ("spans", "shapes"):
            assert ours.to_pylist() == theirs.to_pylist()
    assert rows_of(left) == rows_of(right)
    for batch in (left, right):
        _assert_shapes_once(batch.shapes)
    assert left.tally == right.tally


def _assert_shapes_once(table: pa.Table) -> None:
    hashes, *columns = [column.to_pylist() for column in table.columns]
    shapes = list(zip(*columns, strict=True))
    assert len(set(shapes)) == len(shapes)
    assert hashes == [shape_hash(shape) for shape in shapes]
