"""When the spans of each trace start: what lets a reader look for a trace in a part of the store only.

Promise: for every stored span there is a row of its dataset and trace whose times enclose its start.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa


def add(connection: duckdb.DuckDBPyConnection, dataset_id: int, spans: pa.Table) -> None:
    """Notes the traces of spans that are inserted in the same transaction."""
    if not spans.num_rows:
        return
    connection.register("incoming_times", spans.select(["trace_id", "start_ns"]))
    try:
        connection.execute(
            f"""
            insert into all_trace_times
            select {int(dataset_id)}, trace_id, min(start_ns), max(start_ns) from incoming_times group by trace_id
            """  # noqa: S608 - a whole number
        )
    finally:
        connection.unregister("incoming_times")
