"""Jaeger JSON: what its UI and query API give, a bare trace, a list of spans, and the protobuf spelling of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from app.formats.base import ImportRefused
from app.formats.jaeger_spans import Processes, RawSpan, file_span, raw_ids
from app.formats.json_document import load_document, outline_of_head
from app.formats.outline import LIST
from app.formats.text_ids import MAPPED, TextIds
from app.formats.values import NESTED_TOO_DEEP, BadValue
from app.formats.whole_traces import FileSpan, batches_of
from app.otlp.columns import Batch
from app.otlp.records import BatchBuilder

NAME = "Jaeger JSON"
SPECIFICITY = 30

_TRACE_IDS, _SPAN_IDS = frozenset(("traceID", "traceId")), frozenset(("spanID", "spanId"))
_SPAN_KEYS = frozenset(("operationName", "startTime", "duration", "references"))
_API = frozenset(("data", "total", "limit", "offset"))


def sniff(head: bytes) -> bool:
    """Spans with `traceID` and `spanID` (or `operationName`) where one of the four shapes has them."""
    found = outline_of_head(head)
    if found.keys() >= _API:
        return True
    for trace in (("data", LIST), (), (LIST,)):
        keys = found.keys(*trace)
        if _is_span(found.keys(*trace, "spans", LIST)) or {"traceID", "spans"} <= keys:
            return True
        # Where the processes alone fill the head.
        if "processes" in keys and (trace or "traceID" in keys):
            return True
    return _is_span(found.keys(LIST))


def _is_span(keys: frozenset[str]) -> bool:
    return all(keys & one_of for one_of in (_TRACE_IDS, _SPAN_IDS, _SPAN_KEYS))


def read(stream: BinaryIO) -> Iterator[Batch]:
    """All spans; those nested inside references are not counted, they are copies."""
    warnings: list[str] = []
    raws = list(_raw_spans(load_document(stream, warnings)))
    builder = BatchBuilder()
    for warning in warnings:
        builder.warn(warning)
    trace_ids: set[str] = set()
    span_ids: set[str] = set()
    for raw in raws:
        raw_ids(raw, trace_ids, span_ids)
    ids = TextIds(trace_ids, span_ids)
    if ids.mapped:
        builder.warn(MAPPED)
    spans: list[FileSpan] = []
    processes = Processes()
    for raw in raws:
        try:
            spans.append(file_span(raw, ids, processes))
        except BadValue as error:
            builder.reject(str(error), raw.where)
        except RecursionError:
            builder.reject(NESTED_TOO_DEEP, raw.where)
    del raws
    yield from batches_of(spans, builder)


def _raw_spans(document: Any) -> Iterator[RawSpan]:
    if isinstance(document, Mapping):
        traces = document["data"] if isinstance(document.get("data"), list) else [document]
    elif isinstance(document, list):
        # A list of spans with their processes inlined, or of traces.
        traces = [item if isinstance(item, Mapping) and "spans" in item else {"spans": [item]} for item in document]
        if all("traceID" not in trace and len(trace) == 1 for trace in traces):
            traces = [{"spans": [span for trace in traces for span in _list(trace["spans"])]}]
    else:
        raise ImportRefused("a JSON value that is neither an object nor a list")
    for number, trace in enumerate(traces, 1):
        if not isinstance(trace, Mapping):
            continue
        place = f"trace {number}, " if len(traces) > 1 else ""
        processes = trace.get("processes")
        trace_id = trace.get("traceID")
        for position, span in enumerate(_list(trace.get("spans")), 1):
            yield RawSpan(
                span,
                processes if isinstance(processes, Mapping) else {},
                trace_id if isinstance(trace_id, str) else "",
                f"{place}span {position}",
            )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
