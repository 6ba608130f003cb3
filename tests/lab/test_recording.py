"""The demo's recording is what its README says."""

import gzip
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.lab.capture import CapturedSpan, spans_of
from tests.lab.record import MAX_RECORDING_BYTES, phases

RECORDING = Path(__file__).parents[2] / "app" / "demo" / "recording.otlp.gz"


@cache
def recorded() -> list[CapturedSpan]:
    """Decode the file as one ExportTraceServiceRequest."""
    return list(spans_of(gzip.decompress(RECORDING.read_bytes())))


def test_the_file_is_small_and_one_request() -> None:
    """At most 3 MB, one valid message, every span complete and unique."""
    assert RECORDING.stat().st_size <= MAX_RECORDING_BYTES
    spans = recorded()
    assert len({(span.span.trace_id, span.span.span_id) for span in spans}) == len(spans)
    assert all(len(span.span.trace_id) == 16 and len(span.span.span_id) == 8 for span in spans)
    assert all(span.span.end_time_unix_nano >= span.span.start_time_unix_nano > 0 for span in spans)
    assert {span.service for span in spans} == {"gateway", "orders", "payments", "worker"}


def test_the_main_endpoint_has_enough_requests_for_its_tail() -> None:
    """A p99 with an interval needs 368 requests; the checkout has four times as many."""
    entries = Counter(
        span.span.name
        for span in recorded()
        if span.service == "gateway" and span.span.kind == span.span.SPAN_KIND_SERVER
    )
    assert entries["GET /checkout/{cart_id}"] >= 1500
    assert sum(entries.values()) >= 6000
    assert min(entries.values()) >= 368


def test_no_span_was_lost() -> None:
    """Every parent that is named is there, and every job that was sent was run."""
    spans = recorded()
    ids = {span.span.span_id for span in spans}
    missing = [span for span in spans if span.span.parent_span_id and span.span.parent_span_id not in ids]
    assert missing == []
    kinds = [span.span.kind for span in spans]
    assert kinds.count(Span.SPAN_KIND_PRODUCER) == kinds.count(Span.SPAN_KIND_CONSUMER) > 0


def test_the_faults_are_inside() -> None:
    """Repeated queries, serial calls, waits for a connection, instant retries and queued jobs are all there."""
    children: defaultdict[bytes, list[CapturedSpan]] = defaultdict(list)
    for span in recorded():
        children[span.span.parent_span_id].append(span)
    by_name: defaultdict[str, list[CapturedSpan]] = defaultdict(list)
    for span in recorded():
        by_name[f"{span.service} {span.span.name}"].append(span)

    histories = [s for s in by_name["orders GET /orders"] if s.span.kind == s.span.SPAN_KIND_SERVER]
    assert all(sum(c.span.name == "SELECT" for c in children[s.span.span_id]) >= 10 for s in histories)
    for dashboard in by_name["gateway GET /dashboard/{customer_id}"]:
        calls = sorted(children[dashboard.span.span_id], key=lambda span: span.span.start_time_unix_nano)
        assert len(calls) == 3
        assert all(a.span.end_time_unix_nano <= b.span.start_time_unix_nano for a, b in pairwise(calls))
    waits = [span.duration_ms > 50 for span in by_name["orders connect"]]
    assert 0.01 < sum(waits) / len(waits) < 0.25
    checkouts = by_name["gateway GET /checkout/{cart_id}"]
    retried = [s for s in checkouts if sum(c.span.status.code == 2 for c in children[s.span.span_id]) > 0]
    assert 0.03 < len(retried) / len(checkouts) < 0.15
    senders = {span.span.span_id: span for span in by_name["orders apply_async/shop.send_receipt"]}
    jobs = by_name["worker run/shop.send_receipt"]
    waits_ms = [
        (job.span.start_time_unix_nano - senders[job.span.parent_span_id].span.end_time_unix_nano) / 1e6 for job in jobs
    ]
    assert max(waits_ms) > 1000


def test_the_load_is_bounded() -> None:
    """Five minutes are ten rounds of half a minute."""
    load = phases(5)
    assert sum(phase.seconds for phase in load) == 300
    assert sum(phase.seconds * phase.rate_per_s for phase in load) >= 6000
