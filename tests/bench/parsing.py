"""How fast Google's parser alone reads bodies, in a process that does nothing else: `python -m tests.bench.parsing`.

In glibc's default state half of its time goes into page faults: the memory of each message is given back to the system
and fetched anew. A process that has freed something large before (as a sender of benchmarks has) is spared that and
parses twice as fast, so both figures are taken, each in a new process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_SPANS = 200_000
_ROUNDS = 4
_KEEP = "glibc.malloc.trim_threshold=1073741824:glibc.malloc.mmap_threshold=1073741824"


@dataclass(frozen=True)
class ParseRates:
    """Spans a second of processor time."""

    alone: float
    memory_kept: float
    """With an allocator that gives no memory back between messages."""


def parse_rates(bodies: Sequence[bytes], spans_per_body: int) -> ParseRates:
    """Both rates, each the best of a few rounds."""
    with tempfile.TemporaryDirectory(prefix="spanwise-bench-") as folder:
        for number, body in enumerate(bodies):
            (Path(folder) / str(number)).write_bytes(body)
        alone, kept = (
            float(
                subprocess.run(
                    [sys.executable, "-m", "tests.bench.parsing", folder, str(spans_per_body)],
                    env={**os.environ, "GLIBC_TUNABLES": tunables},
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
            for tunables in ("", _KEEP)
        )
    return ParseRates(alone, kept)


def _main(folder: str, spans_per_body: str) -> None:
    bodies = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    spans = int(spans_per_body) * len(bodies)
    repeats = max(1, _SPANS // spans)
    best = 0.0
    for _ in range(_ROUNDS):
        began = time.process_time()
        for _ in range(repeats):
            for body in bodies:
                ExportTraceServiceRequest.FromString(body)
        best = max(best, repeats * spans / (time.process_time() - began))
    print(best)


if __name__ == "__main__":
    _main(*sys.argv[1:])
