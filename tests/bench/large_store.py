"""A store of millions of spans for benches: the demo's recording again and again, under new ids and times.

The recording is cut into pieces of ten seconds, which keep its structure (queues, pools, retries, errors, tails). Each
copy of a piece is stretched by a factor of its own, so that durations differ, and belongs to one of several variants of
the shop with services of their own. Copies begin evenly over the whole time and go through the store's own `append` in
the order of time, as they would have arrived. What attributes say repeats from copy to copy: the file is smaller than
one of as many real spans.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from app.formats.importing import read_file
from app.otlp.columns import RESOURCES, SHAPES, SPANS, Batch, Tally, with_column
from app.resources import demo_recording
from app.store import open_store
from app.store.base import LIVE

VARIANTS = 8
DAY_NS = 86_400_000_000_000
_PIECE_NS = 10_000_000_000
_ROWS_A_COMMIT = 65_536
_FACTORS = (0.8, 1.25)

_Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class LargeStore:
    """What was written."""

    spans: int
    seconds: float
    bytes: int


def write_store(path: Path, spans: int, end_ns: int, duration_ns: int = DAY_NS) -> LargeStore:
    """A new database file with about so many live spans, spread evenly over the time before `end_ns`."""
    began = time.monotonic()
    recording = _Recording()
    copies = max(1, round(spans / recording.batch.span_count * recording.pieces))
    store = open_store(str(path))
    try:
        # Copies that overlap in time arrive interleaved: what a later copy may still come before waits.
        waiting, written = SPANS.empty_table(), 0
        for number in range(copies):
            first_ns = end_ns - duration_ns + round(number * (duration_ns - recording.longest_ns) / max(copies - 1, 1))
            waiting = pa.concat_tables([waiting, recording.copy(number, first_ns)])
            if waiting.num_rows >= _ROWS_A_COMMIT or number == copies - 1:
                waiting = waiting.sort_by("start_ns")
                ready = pc.sum(pc.less(waiting["start_ns"], first_ns)).as_py() if number < copies - 1 else None
                written += store.append(LIVE, [recording.batch_of(waiting.slice(0, ready))]).inserted
                waiting = waiting.slice(ready) if ready is not None else waiting
        size = store.size_bytes()
    finally:
        store.close()
    return LargeStore(written, time.monotonic() - began, size)


class _Recording:
    """The demo's spans in pieces, with what is needed to make copies of them."""

    def __init__(self) -> None:
        batches = list(read_file(demo_recording()).batches)
        shapes, spans = _together(batches)
        self.batch = replace(batches[0], spans=spans)
        self._shape_count = shapes.num_rows
        self._shapes = pa.concat_tables([_variant_of(shapes, variant) for variant in range(VARIANTS)]).combine_chunks()
        traces = _two_words(spans["trace_id"].combine_chunks())
        starts = spans["start_ns"].to_numpy()
        _, trace_of = np.unique(traces, axis=0, return_inverse=True)
        trace_starts = np.full(trace_of.max() + 1, starts.max())
        np.minimum.at(trace_starts, trace_of, starts)
        piece = (trace_starts[trace_of] - starts.min()) // _PIECE_NS
        self._parts = [spans.take(np.flatnonzero(piece == number)) for number in range(int(piece.max()) + 1)]
        self.pieces = len(self._parts)
        self.longest_ns = round(max(np.ptp(part["start_ns"].to_numpy()) for part in self._parts) * _FACTORS[1]) + 1
        resources = pa.concat_tables([batch.resources for batch in batches])
        rows = {row["resource_id"]: row for row in resources.to_pylist()}
        self._resources = pa.Table.from_pylist(
            [
                {**row, "resource_id": (row["resource_id"] ^ _mix(variant)), "service": row["service"] + suffix}
                for row in rows.values()
                for variant, suffix in enumerate(_SUFFIXES)
            ],
            RESOURCES,
        )
        self._scopes = pa.concat_tables([batch.scopes for batch in batches])

    def copy(self, number: int, first_ns: int) -> pa.Table:
        """The spans of one copy of a piece."""
        spans = self._parts[number % self.pieces]
        factor = np.random.default_rng(number).uniform(*_FACTORS)
        mixed = np.uint64(_mix(number + 1))
        traces = _two_words(spans["trace_id"].combine_chunks()) ^ np.array([mixed, 0], np.uint64)
        starts, ready = spans["start_ns"].to_numpy(), spans["ready_ns"].to_numpy()
        parents = spans["parent_span_id"].to_numpy()

        def moved(times: _Numbers) -> _Numbers:
            later: _Numbers = first_ns + ((times - starts.min()) * factor).astype(np.int64)
            return later

        columns: dict[str, pa.Array | pa.ChunkedArray] = {name: spans[name] for name in spans.column_names}
        columns["trace_id"] = pa.ExtensionArray.from_storage(
            pa.uuid(),
            pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), len(traces), [None, pa.py_buffer(traces.astype(">u8").tobytes())]
            ),
        )
        columns["span_id"] = pa.array(spans["span_id"].to_numpy() ^ mixed)
        columns["parent_span_id"] = pa.array(np.where(parents == 0, parents, parents ^ mixed))
        columns["span_hash"] = pa.array(spans["span_hash"].to_numpy() ^ mixed)
        columns["start_ns"] = pa.array(moved(starts))
        columns["duration_ns"] = pa.array((spans["duration_ns"].to_numpy() * factor).astype(np.int64))
        columns["ready_ns"] = pa.array(np.where(ready == 0, ready, moved(ready)))
        columns["shape"] = pa.array(spans["shape"].to_numpy() + np.uint32(number % VARIANTS * self._shape_count))
        return pa.table(columns).select(SPANS.names).cast(SPANS)

    def batch_of(self, spans: pa.Table) -> Batch:
        """A batch as a decoder yields it."""
        tally = Tally(found=spans.num_rows, accepted=spans.num_rows)
        return replace(
            self.batch,
            spans=spans,
            shapes=self._shapes,
            resources=self._resources,
            scopes=self._scopes,
            tally=tally,
        )


def _together(batches: Sequence[Batch]) -> tuple[pa.Table, pa.Table]:
    """The shapes of all batches, each once, and their spans."""
    places: dict[int, int] = {}
    shapes, spans = [], []
    for batch in batches:
        hashes = batch.shapes["shape_hash"].to_pylist()
        new = [row for row, one in enumerate(hashes) if one not in places]
        places |= {hashes[row]: len(places) + number for number, row in enumerate(new)}
        shapes.append(batch.shapes.take(pa.array(new, pa.int64())))
        numbers = np.array([places[one] for one in hashes], np.uint32)
        spans.append(with_column(batch.spans, "shape", pa.array(numbers[batch.spans["shape"].to_numpy()])))
    return pa.concat_tables(shapes), pa.concat_tables(spans).combine_chunks()


def _variant_of(shapes: pa.Table, variant: int) -> pa.Table:
    """The shapes in one variant of the shop; the first keeps its names."""
    for name in ("shape_hash", "resource_id"):
        shapes = with_column(shapes, name, pa.array(shapes[name].to_numpy() ^ np.uint64(_mix(variant))))
    for name in ("service", "instance") if variant else ():
        shapes = with_column(shapes, name, pc.binary_join_element_wise(shapes[name], _SUFFIXES[variant], ""))
    return shapes.cast(SHAPES)


_SUFFIXES = ["", *(f"-{number}" for number in range(2, VARIANTS + 1))]


def _mix(number: int) -> int:
    return number * 0x9E37_79B9_7F4A_7C15 % 2**64


def _two_words(trace_ids: pa.Array) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    words = np.frombuffer(trace_ids.storage.buffers()[1], ">u8")[2 * trace_ids.offset :]
    return words[: 2 * len(trace_ids)].reshape(-1, 2).astype(np.uint64)
