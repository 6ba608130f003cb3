"""The read handle given to analyses: one dataset and window as views, queries that end when time is up."""

from __future__ import annotations

import threading
import time
from typing import Any

import duckdb

from analysis.errors import QueryInterrupted
from analysis.span import Span, Window
from app.store.base import StoreBusy
from app.store.connection import translated

_FIELDS = ", ".join(Span._fields)
_REST = "resource_id, scope_id, status_message, service_version, attributes"
_MORE = "trace_state, flags, dropped_attributes_count, dropped_events_count, dropped_links_count, notes"


class DuckSpans:
    """`analysis.span.Spans` over one cursor: a snapshot, so that all queries of a report see the same spans."""

    def __init__(
        self, cursor: duckdb.DuckDBPyConnection, dataset_id: int, window: Window, timeout_s: float, candidates: bool
    ) -> None:
        self._cursor = cursor
        self._window = window
        self._deadline = time.monotonic() + timeout_s
        self._stopped = False
        self._closed = False
        self._wake = threading.Event()
        self._watch = threading.Thread(target=self._watch_deadline, name="spanwise-deadline", daemon=True)
        try:
            cursor.execute(_views(int(dataset_id), window, candidates))
            cursor.execute("begin transaction read only")
        except duckdb.Error as error:
            raise translated(error, "reading") from error
        self._watch.start()

    @property
    def window(self) -> Window:
        return self._window

    def rows(self, sql: str, **parameters: object) -> list[tuple[Any, ...]]:
        """All rows of one select; values only as `$name`. Raises `analysis.errors.QueryInterrupted` on a deadline."""
        if self._stopped or time.monotonic() >= self._deadline:
            raise QueryInterrupted(self._reason())
        try:
            return self._cursor.execute(sql, parameters or None).fetchall()
        except duckdb.InterruptException as error:
            self._begin_again()
            raise QueryInterrupted(self._reason()) from error
        except duckdb.OutOfMemoryException as error:
            self._begin_again()
            raise StoreBusy("the query needs more memory than the store may use: choose a shorter window") from error
        except duckdb.Error as error:
            self._begin_again()
            raise translated(error, "the query") from error

    def quantile(self, column: str, q: float) -> str:
        """The engine's words for the exact interpolated quantile of a column, for use inside a select list."""
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile is between 0 and 1, not {q}")
        return f"quantile_cont({column}, {float(q)!r})"

    def interrupt(self) -> None:
        """Ends the running query and refuses further ones; from any thread, at any time, any number of times."""
        self._stopped = True
        self._wake.set()

    def close(self) -> None:
        """Ends the snapshot; idempotent."""
        self._closed = True
        self._wake.set()
        if self._watch.is_alive():
            self._watch.join()
        self._cursor.close()

    def _reason(self) -> str:
        return "the reader left" if self._stopped else "the query took longer than its time limit"

    def _begin_again(self) -> None:
        # A failed query ends its transaction; the next query of the same report may still succeed.
        try:
            self._cursor.execute("rollback")
            self._cursor.execute("begin transaction read only")
        except duckdb.Error:
            self._stopped = True

    def _watch_deadline(self) -> None:
        self._wake.wait(max(0.0, self._deadline - time.monotonic()))
        pause = threading.Event()
        # Again and again: an interrupt that comes just before a query begins is forgotten by the engine.
        while not self._closed:
            self._cursor.interrupt()
            pause.wait(0.02)


def _views(dataset_id: int, window: Window, candidates: bool) -> str:
    spans = f"""
        select {_FIELDS}, {_REST}, {_MORE} from main.all_spans join main.all_shapes using (shape_id)
        where dataset_id = {dataset_id}"""  # noqa: S608 - column names and a whole number
    cut = f"start_ns >= {int(window.start_ns)} and start_ns < {int(window.end_ns)}"
    requests = "select * from temp.spans where request_class = 'request'"
    if candidates:
        # The sender did not say where the parent is: a span of the same service above it means "in the same process".
        # Two branches and an anti join: `not exists` beside `or` looked up every span's parent, 2 to 3 times as slow.
        requests += """
            union all
            select span.* from (select * from temp.spans where request_class = 'candidate') as span
            anti join (select trace_id, span_id, service from temp.trace_spans) as parent
                on parent.trace_id = span.trace_id and parent.span_id = span.parent_span_id
                and parent.service = span.service"""
    return f"""
        create temp view trace_spans as {spans};
        create temp view spans as {spans} and {cut};
        create temp view requests as {requests};
        create temp view span_events as
            select * exclude (dataset_id) from main.all_events where dataset_id = {dataset_id};
        create temp view span_links as
            select * exclude (dataset_id) from main.all_links where dataset_id = {dataset_id};
        create temp view resources as select * from main.all_resources;
        create temp view scopes as select * from main.all_scopes;
        """  # noqa: S608 - column names and whole numbers only
