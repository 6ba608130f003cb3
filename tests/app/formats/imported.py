"""A file imported into a store in memory, and the figures that `../shared/data/formats/expected.jsonl` asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from analysis.span import Spans, Window
from app.formats.base import ImportRefused
from app.formats.importing import read_file
from app.otlp.columns import Tally
from app.store import open_store
from app.store.base import Dataset

FIXTURES = Path(__file__).parents[2] / "data/formats"
SHARED = Path(__file__).parents[4] / "shared/data"

Row = tuple[Any, ...]


def shared_file(name: str) -> Path:
    """A file of the shared test data; skips the test where it is not there."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no shared test data at {path}")
    return path


def write_json(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


@contextmanager
def imported(path: Path) -> Iterator[tuple[Dataset, Spans]]:
    """The dataset of the file, and a handle on it."""
    store = open_store(":memory:")
    try:
        found = read_file(path)
        dataset = store.import_dataset(path.name, "upload", path.name, found.format_name, found.batches)
        with store.read(dataset.dataset_id, Window(0, 2**63 - 1), 60.0) as spans:
            yield dataset, spans
    finally:
        store.close()


def rows_of(path: Path, columns: str, order_by: str = "span_id") -> list[Row]:
    """Columns of all spans of the file."""
    with imported(path) as (_, spans):
        return spans.rows(f"select {columns} from trace_spans order by {order_by}")


def tally_of(path: Path) -> Tally:
    """What was found in the file, imported or refused."""
    try:
        with imported(path) as (dataset, _):
            return dataset.tally
    except ImportRefused as refused:
        return refused.tally


def figures(path: Path) -> dict[str, int | None]:
    """Every number of `expected.jsonl`, those about spans computed from the stored rows."""
    stored: Row = (0, 0, 0, 0, 0, None, None)
    try:
        with imported(path) as (dataset, spans):
            tally = dataset.tally
            [stored] = spans.rows(
                """
                select count(*), count(distinct trace_id), count(distinct service),
                    count(*) filter (parent_span_id = 0),
                    count(*) filter (parent_span_id <> 0 and not exists (
                        select 1 from trace_spans as parent
                        where parent.trace_id = span.trace_id and parent.span_id = span.parent_span_id
                    )),
                    min(start_ns), max(start_ns + duration_ns)
                from trace_spans as span
                """
            )
    except ImportRefused as refused:
        tally = refused.tally
    spans_stored, traces, services, roots, missing_parents, first_start_ns, last_end_ns = stored
    assert spans_stored == tally.accepted
    assert tally.found == tally.accepted + tally.joined + tally.duplicates + tally.rejected_count
    return {
        "found": tally.found,
        "accepted": tally.accepted,
        "joined": tally.joined,
        "duplicates": tally.duplicates,
        "rejected": tally.rejected_count,
        "unreadable": sum(one.count for one in tally.unreadable),
        "other_signals": tally.other_signals,
        "re_identified": tally.re_identified,
        "traces": traces,
        "services": services,
        "roots": roots,
        "missing_parents": missing_parents,
        "first_start_ns": first_start_ns,
        "last_end_ns": last_end_ns,
    }
