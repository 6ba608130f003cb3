"""When the spans of each trace start: what lets a reader look for a trace in a part of the store only.

Promise: for every stored span there is a row of its dataset and trace whose times enclose its start.
"""

from __future__ import annotations

import pyarrow as pa


def of(spans: pa.Table) -> pa.Table:
    """The rows to insert in the same transaction as the spans, one for each of their traces."""
    ids = spans["trace_id"].combine_chunks()
    table = pa.table({"trace_id": ids.storage, "start_ns": spans["start_ns"]})
    times = table.group_by("trace_id", use_threads=False).aggregate([("start_ns", "min"), ("start_ns", "max")])
    traces = pa.ExtensionArray.from_storage(ids.type, times["trace_id"].combine_chunks())
    return pa.table({"trace_id": traces, "first_ns": times["start_ns_min"], "last_ns": times["start_ns_max"]})
