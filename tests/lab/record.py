"""The recorder of the demo data: a real run of the lab, kept as one compressed OTLP request."""

import gzip
from collections import Counter
from pathlib import Path

from tests.lab.capture import Capture, CapturedSpan
from tests.lab.lab import Lab
from tests.lab.load import Phase

RECORDED_FAULTS = "n_plus_one,serial_awaits,small_pool,retry_no_backoff,slow_consumer"
MAX_RECORDING_BYTES = 3_000_000
WORKER_DRAIN_S = 120.0

# Half a minute: steady traffic, then a rush in which the pool and the worker fall behind; rushes differ in strength.
STEADY = Phase(27.5, 17.5)
RUSHES = (Phase(2.5, 50.0), Phase(2.5, 40.0), Phase(2.5, 60.0))


def phases(minutes: float) -> list[Phase]:
    """Return the load of a recording, in whole half minutes."""
    rounds = max(1, round(minutes * 60 / (STEADY.seconds + RUSHES[0].seconds)))
    return [phase for number in range(rounds) for phase in (STEADY, RUSHES[number % len(RUSHES)])]


def record(out: Path, fault: str, minutes: float) -> dict[str, object]:
    """Run the lab against a capture server and write what it exported; return counts and the services' own truth.

    The file is gzip over concatenated ExportTraceServiceRequest messages. Protobuf merges repeated fields on
    concatenation, so the whole is itself one valid ExportTraceServiceRequest. Raises ValueError above 3 MB.
    """
    with Capture() as capture:
        with Lab(endpoint=capture.endpoint("http/protobuf"), fault=fault, lean=True) as lab:
            warm_up = lab.warm_up
            load = lab.drive_phases(phases(minutes))
            jobs_left = lab.wait_for_worker(WORKER_DRAIN_S)
            truth = lab.stop()
        packed = gzip.compress(b"".join(capture.bodies), compresslevel=9, mtime=0)
        spans = capture.spans()
    if len(packed) > MAX_RECORDING_BYTES:
        raise ValueError(f"the recording has {len(packed)} bytes, more than {MAX_RECORDING_BYTES}: record less time")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(packed)
    return {
        "file": str(out),
        "file_bytes": len(packed),
        "spans": len(spans),
        "requests_by_endpoint": _entries(spans),
        "spans_by_scope": dict(Counter(f"{span.service} {span.scope.rpartition('.')[2]}" for span in spans)),
        "warm_up": warm_up,
        "load": load.to_dict(),
        "jobs_left": jobs_left,
        "truth": truth,
    }


def _entries(spans: list[CapturedSpan]) -> dict[str, int]:
    counts = Counter(
        f"{span.service} {span.span.name}"
        for span in spans
        if span.span.kind in (span.span.SPAN_KIND_SERVER, span.span.SPAN_KIND_CONSUMER)
    )
    return dict(sorted(counts.items()))
