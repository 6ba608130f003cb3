"""Every request of every recorded file: its ledger adds up, nothing moves without an edit, quantiles are right."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest

from analysis.accounting import request_ledger
from analysis.critical_path import critical_path
from analysis.latency import endpoint_rows
from analysis.quantiles import sample_quantile
from analysis.retime import Edit, retimed_duration_ns
from analysis.span import SPAN_COLUMNS, Span, Spans
from analysis.trace import build_trace, host_clock
from app.formats.base import ImportRefused
from app.formats.importing import read_file
from app.otlp.columns import Batch
from tests.captures import DATA, capture_batches
from tests.stored import stored

EXAMPLE = Path(__file__).parents[2] / "app" / "demo" / "recording.otlp.gz"
EVERY_SPAN = os.environ.get("SPANWISE_TEST_EVERY_SPAN") == "1"
"""Reads the Online Boutique whole, 1.5 million spans, instead of the first 20,000 of every eighth file."""


def sources() -> list[Path]:
    """Files, and folders whose files are the bodies of one recording."""
    found = [EXAMPLE]
    for folder in ("formats", "formats-python", "hotel"):
        found += sorted(
            path for path in (DATA / folder).rglob("*") if path.is_file() and path.suffix not in (".md", ".txt")
        )
    found += sorted(path for path in (DATA / "captures").glob("*/*") if path.is_dir())
    found += sorted((DATA / "onlineboutique").glob("*.gz"))[:: 1 if EVERY_SPAN else 8]
    return [path for path in found if path.name != "expected.jsonl"]


def batches(path: Path) -> list[Batch]:
    if path.is_dir():
        return list(capture_batches(path.parent.name, path.name))
    most = 1 if path.parent.name == "onlineboutique" and not EVERY_SPAN else None
    try:
        return [batch for batch in islice(read_file(path).batches, most) if batch.span_count]
    except ImportRefused:
        return []


def all_traces(spans: Spans) -> list[list[Span]]:
    rows = spans.rows(f"select {SPAN_COLUMNS} from trace_spans order by trace_id, start_ns, span_id, span_hash")
    grouped: dict[str, list[Span]] = {}
    for row in rows:
        grouped.setdefault(row[0], []).append(Span._make(row))
    return list(grouped.values())


def check(spans: Spans) -> int:
    """Checks every request of every trace; how many there were."""
    traces = all_traces(spans)
    clock = host_clock(traces)
    checked = 0
    for members in traces:
        trace = build_trace(members, clock)
        assert sum(1 for _ in trace.walk()) + trace.repeats == len(members)
        for root in trace.walk():
            if not root.is_entry:
                continue
            ledger = request_ledger(trace, root)
            assert sum(part.duration_ns for part in ledger.slices) == ledger.duration_ns == root.duration_ns
            assert ledger.duration_ns == root.span.duration_ns
            assert sum(section.duration_ns for section in critical_path(root)) == root.duration_ns
            assert retimed_duration_ns(root, Edit()) == root.duration_ns
            checked += 1
    return checked


def check_quantiles(spans: Spans) -> None:
    """Every quantile that is shown equals that of the durations sorted by hand."""
    durations: dict[tuple[str, str], list[int]] = {}
    for service, endpoint, duration_ns in spans.rows(
        "select service, endpoint, duration_ns from requests order by service, endpoint, duration_ns"
    ):
        durations.setdefault((service, endpoint), []).append(duration_ns)
    for row in endpoint_rows(spans):
        ordered = durations.pop((row.service, row.endpoint))
        assert row.count == len(ordered)
        for quantile in (row.p50, row.p95, row.p99, row.p999):
            assert quantile.value_ns is not None
            assert abs(quantile.value_ns - sample_quantile(ordered, quantile.q)) <= 1 + ordered[-1] * 1e-12
    assert durations == {}


@pytest.mark.parametrize("path", sources(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_ledgers_add_up_and_quantiles_are_right(path: Path) -> None:
    found = batches(path)
    if not found:
        with pytest.raises(ImportRefused):
            list(read_file(path).batches)
        return
    with stored(found) as spans:
        assert check(spans) > 0
        check_quantiles(spans)
