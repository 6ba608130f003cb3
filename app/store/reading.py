"""The read handle given to analyses: one dataset and window as views, queries that end when time is up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from analysis.errors import QueryInterrupted
from analysis.span import Span, Thinned, Window
from app.store.base import StoreBusy
from app.store.connection import translated

T = TypeVar("T")

_FIELDS = ", ".join(Span._fields)
_FEW = "resource_id, scope_id, status_message, service_version"
_REST = f"{_FEW}, attributes"
_MORE = "trace_state, flags, dropped_attributes_count, dropped_events_count, dropped_links_count, notes"


class DuckSpans:
    """`analysis.span.Spans` over one cursor: a snapshot, so that all queries of a report see the same spans."""

    def __init__(
        self, cursor: duckdb.DuckDBPyConnection, dataset_id: int, window: Window, timeout_s: float, candidates: bool
    ) -> None:
        self._cursor = cursor
        self._dataset_id = int(dataset_id)
        self._candidates = candidates
        self._window = window
        self._deadline = time.monotonic() + timeout_s
        self._stopped = False
        self._closed = False
        self._wake = threading.Event()
        self._watch = threading.Thread(target=self._watch_deadline, name="spanwise-deadline", daemon=True)
        try:
            cursor.execute(_views(self._dataset_id))
            cursor.execute(_shown(_cut(self._dataset_id, window), candidates))
            cursor.execute("begin transaction read only")
        except duckdb.Error as error:
            raise translated(error, "reading") from error
        self._watch.start()

    @property
    def window(self) -> Window:
        return self._window

    def rows(self, sql: str, **parameters: object) -> list[tuple[Any, ...]]:
        """All rows of one select; values only as `$name`. Raises `analysis.errors.QueryInterrupted` on a deadline."""
        return self._run(lambda: self._cursor.execute(sql, parameters or None).fetchall())

    def arrays(self, sql: str, **parameters: object) -> list[tuple[Any, ...]]:
        """As `rows`, for many rows; lists of whole numbers come as numpy arrays, without an object for each number."""
        table = self._run(lambda: self._cursor.sql(sql, params=parameters or None).to_arrow_table())
        return list(zip(*(_cells(column) for column in table.columns), strict=True))

    def keep(self, name: str, sql: str, **parameters: object) -> None:
        """Makes a relation of a select for the further queries of this handle, computed once; made anew if it is."""
        self._run(lambda: self._cursor.execute(f"create or replace temp table {name} as {sql}", parameters or None))

    @contextmanager
    def thinned(self, most: int) -> Iterator[Thinned]:
        """While it lasts `spans` and `requests` hold whole traces with about `most` spans, without their attributes."""
        total = self._span_count()
        if total <= most:
            yield Thinned(total, total)
            return
        # Kept with the columns that joins need: 0.26 s of 10 million spans, and 1.1 s with all columns.
        self.keep(
            "thinned_spans",
            f"""
            select {_NARROW} from main.all_spans
            where {_in_window(self._dataset_id, self._window)}
              and hash(trace_id) % {_PARTS} < {round(most / total * _PARTS)}
            """,  # noqa: S608 - column names and whole numbers only
        )
        try:
            self._show(f"select {_FIELDS}, {_FEW} from thinned_spans join main.all_shapes using (shape_id)")  # noqa: S608
            yield Thinned(self._span_count(), total)
        finally:
            self._show(_cut(self._dataset_id, self._window))

    def _span_count(self) -> int:
        return int(self.rows("select count(*) as n from spans order by n")[0][0])

    def _show(self, source: str) -> None:
        self._run(lambda: self._cursor.execute(_shown(source, self._candidates)))

    def _run(self, query: Callable[[], T]) -> T:
        if self._stopped or time.monotonic() >= self._deadline:
            raise QueryInterrupted(self._reason())
        try:
            return query()
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


def _cells(column: pa.ChunkedArray) -> Iterable[Any]:
    """A column's values as Python has them; equal texts are one object, which takes a fifth of the time."""
    if pa.types.is_list(column.type):
        return [cell.values.to_numpy() for cell in column]
    if column.null_count == 0 and pa.types.is_integer(column.type):
        numbers: list[int] = column.to_numpy().tolist()
        return numbers
    if column.null_count == 0 and pa.types.is_string(column.type) and column.num_chunks:
        encoded = column.combine_chunks().dictionary_encode()
        return map(encoded.dictionary.to_pylist().__getitem__, encoded.indices.to_numpy().tolist())
    values: list[Any] = column.to_pylist()
    return values


_NARROW = (
    "trace_id, span_id, parent_span_id, shape_id, start_ns, duration_ns, ready_ns, message_id, target_hash, span_hash, "
    "status_message"
)
_PARTS = 1_000_000


def _views(dataset_id: int) -> str:
    """The relations that do not depend on the window."""
    return f"""
        create temp view trace_spans as
            select all_spans.rowid as place, {_FIELDS}, {_REST}, {_MORE}
            from main.all_spans join main.all_shapes using (shape_id)
            where dataset_id = {dataset_id};
        create temp view trace_times as
            select trace_id, first_ns, last_ns from main.all_trace_times where dataset_id = {dataset_id};
        create temp view span_events as
            select * exclude (dataset_id) from main.all_events where dataset_id = {dataset_id};
        create temp view span_links as
            select * exclude (dataset_id) from main.all_links where dataset_id = {dataset_id};
        create temp view resources as select * from main.all_resources;
        create temp view scopes as select * from main.all_scopes;
        """  # noqa: S608 - column names and whole numbers only


def _in_window(dataset_id: int, window: Window) -> str:
    return f"dataset_id = {dataset_id} and start_ns >= {int(window.start_ns)} and start_ns < {int(window.end_ns)}"


def _cut(dataset_id: int, window: Window) -> str:
    """The window's spans."""
    return f"""
        select {_FIELDS}, {_REST}, {_MORE} from main.all_spans join main.all_shapes using (shape_id)
        where {_in_window(dataset_id, window)}
        """  # noqa: S608 - column names and whole numbers only


def _shown(source: str, candidates: bool) -> str:
    """Makes a select the spans that analyses see, with the requests among them."""
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
        create or replace temp view spans as {source};
        create or replace temp view requests as {requests};
        """
