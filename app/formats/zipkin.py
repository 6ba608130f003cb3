"""Zipkin v2 JSON: a list of reports, one report, or a list of traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from app.formats.base import ImportRefused
from app.formats.json_document import load_document, outline_of_head
from app.formats.outline import LIST
from app.formats.text_ids import MAPPED, TextIds
from app.formats.values import NESTED_TOO_DEEP, BadValue, text
from app.formats.whole_traces import FileSpan, batches_of
from app.formats.zipkin_reports import Report, file_span, merged
from app.otlp.columns import Batch
from app.otlp.records import BatchBuilder

NAME = "Zipkin v2 JSON"
SPECIFICITY = 30


def sniff(head: bytes) -> bool:
    """Objects with `traceId` and `id` whose annotations name no endpoint (Zipkin v1's do)."""
    found = outline_of_head(head)
    for report in ((LIST,), (), (LIST, LIST)):
        keys = found.keys(*report)
        if {"traceId", "id"} <= keys:
            return "binaryAnnotations" not in keys and "endpoint" not in found.keys(*report, "annotations", LIST)
    return False


def read(stream: BinaryIO) -> Iterator[Batch]:
    """All spans, partial reports of one joined."""
    warnings: list[str] = []
    builder = BatchBuilder()
    reports: list[Report] = []
    for position, raw in enumerate(_raw_reports(load_document(stream, warnings)), 1):
        where = f"span {position}"
        if isinstance(raw, Mapping):
            reports.append(Report(raw, where))
        else:
            builder.reject("bad value: a span is not an object", where)
    for warning in warnings:
        builder.warn(warning)
    ids = TextIds(
        {text(report.raw.get("traceId")) for report in reports},
        {text(report.raw.get(name)) for report in reports for name in ("id", "parentId")},
    )
    if ids.mapped:
        builder.warn(MAPPED)
    spans: list[FileSpan] = []
    for report in merged(reports, builder):
        try:
            spans.append(file_span(report, ids))
        except BadValue as error:
            builder.reject(str(error), report.where)
        except RecursionError:
            builder.reject(NESTED_TOO_DEEP, report.where)
    del reports
    yield from batches_of(spans, builder)


def _raw_reports(document: Any) -> Iterator[Any]:
    if isinstance(document, Mapping):
        yield document
    elif isinstance(document, list):
        for item in document:
            if isinstance(item, list):
                yield from item
            else:
                yield item
    else:
        raise ImportRefused("a JSON value that is neither an object nor a list")
