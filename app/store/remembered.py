"""What the store knows of each dataset without asking the database: versions, deletions, kinds of spans, counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from app.otlp.columns import Batch
from app.store.base import LIVE, Dataset

_LIVE_SPANS_COUNTED_EXACTLY = 500_000
_LIVE_COUNTS_KEPT_S = 10.0


class Remembered:
    """One for a store; used by any thread, and no query is made under its lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._candidates: dict[int, bool] = {}
        self._first_version = _version_now()
        self._versions: dict[int, int] = {}
        self._deletions: dict[int, int] = {}
        self._live: tuple[float, int, Dataset] | None = None

    def version(self, dataset_id: int) -> int:
        """A number that changes whenever spans of the dataset do."""
        with self._lock:
            return self._version(dataset_id)

    def deletions(self, dataset_id: int) -> int:
        """A number that changes whenever spans of the dataset are deleted."""
        with self._lock:
            return self._deletions.get(dataset_id, 0)

    def changed(self, dataset_id: int, candidates: bool) -> None:
        """Spans were committed, some of which may be requests by what is above them if `candidates`."""
        with self._lock:
            self._versions[dataset_id] = self._version(dataset_id) + 1
            if candidates:
                self._candidates[dataset_id] = True

    def imported(self, dataset_id: int, candidates: bool) -> None:
        """A dataset was made whole."""
        with self._lock:
            self._candidates[dataset_id] = candidates
            self._versions[dataset_id] = self._version(dataset_id) + 1

    def deleted(self, dataset_id: int) -> None:
        """All spans of a dataset are gone."""
        with self._lock:
            self._candidates.pop(dataset_id, None)
            self._deletions[dataset_id] = self._deletions.get(dataset_id, 0) + 1
            # Its counts may be 10 s old otherwise.
            self._live = None
            self._versions[dataset_id] = self._version(dataset_id) + 1

    def start_anew(self) -> None:
        """The database was opened again, with what was durable only."""
        with self._lock:
            self._candidates.clear()
            self._versions.clear()
            self._first_version = _version_now()

    def candidates(self, dataset_id: int) -> bool | None:
        """Whether some of its spans may be requests by what is above them; None where that was not looked up."""
        with self._lock:
            return self._candidates.get(dataset_id)

    def looked_up(self, dataset_id: int, version: int, candidates: bool) -> None:
        """Keeps what a query said of the dataset, unless spans without any came since it was at `version`."""
        with self._lock:
            if candidates or version == self._version(dataset_id):
                self._candidates[dataset_id] = candidates

    def live_counts(self) -> Dataset | None:
        """The live dataset as it was counted last, while that is new enough for its size."""
        with self._lock:
            if self._live is None:
                return None
            counted_at, version, dataset = self._live
            large = dataset.span_count > _LIVE_SPANS_COUNTED_EXACTLY
            kept = large and time.monotonic() - counted_at < _LIVE_COUNTS_KEPT_S
            return dataset if kept or version == self._version(LIVE) else None

    def live_counted(self, version: int, began_s: float, dataset: Dataset) -> None:
        """Keeps counts that were begun at `time.monotonic() == began_s`, when the live dataset was at `version`."""
        with self._lock:
            self._live = (began_s, version, dataset)

    def _version(self, dataset_id: int) -> int:
        return self._versions.get(dataset_id, self._first_version)


def _version_now() -> int:
    # Versions go on from the clock, so that what a browser kept from an earlier run is never taken for current.
    return time.time_ns() // 1_000


def hold_candidates(batches: Iterable[Batch]) -> bool:
    """Whether the sender left open which spans are requests, as it did not say where their parents are."""
    # Batches that were decoded together share their shapes.
    return any(map(_holds_candidate, {id(batch.shapes): batch for batch in batches}.values()))


def _holds_candidate(batch: Batch) -> bool:
    classes: pa.ChunkedArray = batch.shapes["request_class"]
    return bool(np.any(pc.equal(classes, "candidate").to_numpy()))
