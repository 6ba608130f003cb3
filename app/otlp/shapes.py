"""What many spans have in common, collected once for all spans of a batch: the rows of `columns.SHAPES`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from analysis.normalise import content_hash64
from app.otlp.columns import SHAPES
from app.otlp.hashing import Words

Shape = tuple[str | int, ...]
"""Values in the order of `SHAPES` without `shape_hash`."""


def shape_hash(shape: Shape) -> int:
    """A hash of all values, the same in every process."""
    return content_hash64(repr(shape))


class Shapes:
    """The distinct shapes of one batch in the order in which they came."""

    def __init__(self) -> None:
        self._places: dict[Shape, int] = {}
        self._hashes: list[int] = []

    def place(self, shape: Shape, known_hash: int = 0) -> int:
        """Where the shape stands in the table; `known_hash` saves working its hash out."""
        place = self._places.get(shape)
        if place is None:
            place = self._places[shape] = len(self._hashes)
            self._hashes.append(known_hash or shape_hash(shape))
        return place

    def hash_of(self, places: Sequence[int]) -> Words:
        """The hash of the shape at each place."""
        hashes = np.array(self._hashes or [0], np.uint64)
        return hashes[np.array(places, np.int64)]

    def table(self) -> pa.Table:
        if not self._hashes:
            return SHAPES.empty_table()
        columns = [self._hashes, *zip(*self._places, strict=True)]
        return pa.table(
            [pa.array(column, field.type) for column, field in zip(columns, SHAPES, strict=True)], schema=SHAPES
        )
