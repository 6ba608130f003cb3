"""What the server stores in a second, and how soon a query sees it: `python -m tests.bench.ingest`.

A real server on an empty file, bodies over loopback HTTP or gRPC from threads of this process. A span counts once a
query can return it: twice a second a trace of a body just answered is asked for, and after the run the store must hold
exactly what was accepted. Sender and server share the machine, so that only ratios to R0, the rate at which Google's
parser alone reads the same bodies on one core (see `tests.bench.parsing`), are worth comparing.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import numpy as np

from tests.bench.bodies import Template
from tests.bench.parsing import parse_rates
from tests.server import Server, running_server

_TEMPLATES = 6
_MOST_SPANS_PER_S = 400_000
_MOST_SPANS = {"identity": 4_000_000, "gRPC": 4_000_000, "gzip": 1_500_000}
_PROBE_EVERY_S = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Run:
    """One configuration's figures."""

    name: str
    spans: int
    refused: int
    seconds: float
    accepted_per_s: float
    queryable_per_s: float
    p50_s: float
    p99_s: float
    cpu_s_per_million: float
    sender_cpu_s_per_million: float
    peak_rss_bytes: int
    disk_bytes_per_span: float = 0.0
    r0: float = 0.0
    r0_memory_kept: float = 0.0
    ratio: float = 0.0


@dataclass
class _Sent:
    lock: threading.Lock = field(default_factory=threading.Lock)
    spans: int = 0
    refused: int = 0
    number: int = 0
    latencies: list[float] = field(default_factory=list)
    last: float = 0.0
    faults: list[str] = field(default_factory=list)
    probed: float = 0.0

    def probe_now(self) -> bool:
        """Whether it is time to ask for a trace again: an analysis costs as much as some thousand spans."""
        with self.lock:
            due = time.monotonic() - self.probed > _PROBE_EVERY_S
            self.probed = time.monotonic() if due else self.probed
            return due


def measure(templates: list[Template], connections: int, seconds: float, encoding: str, rate: float = 0.0) -> Run:
    """Sends as fast as answers come, or at a constant `rate` (spans/s) where one is given."""
    spans = templates[0].spans
    # Made before the run, so that the sender takes as little of the machine as it can; each is sent once.
    most = int(min((rate or _MOST_SPANS_PER_S) * seconds, _MOST_SPANS[encoding])) // spans + connections
    ready = [templates[number % len(templates)].body(number) for number in range(most)]
    if encoding == "gzip":
        ready = [gzip.compress(body, 1) for body in ready]
    with tempfile.TemporaryDirectory(prefix="spanwise-bench-") as folder:
        run = _measure(Path(folder), templates, connections, seconds, encoding, rate, ready)
        # The server has ended and written its log into the file.
        run.disk_bytes_per_span = sum(one.stat().st_size for one in Path(folder).glob("spanwise.duckdb*")) / run.spans
        return run


def _measure(
    folder: Path, templates: list[Template], connections: int, seconds: float, encoding: str, rate: float,
    ready: list[bytes],
) -> Run:  # fmt: skip
    spans = templates[0].spans
    with running_server(folder, SPANWISE_DECODE_PROCESSES="2") as server:
        processes = _processes(server)
        sent = _Sent()
        cpu, own, began = _cpu_s(processes), time.process_time(), time.monotonic()

        def next_body() -> tuple[int, bytes] | None:
            with sent.lock:
                number = sent.number
                sent.number += 1
            if time.monotonic() - began > seconds or number >= len(ready):
                return None
            if rate:
                time.sleep(max(0.0, began + number * spans / rate - time.monotonic()))
            return number, ready[number]

        threads = [
            threading.Thread(target=_send, args=(server, sent, templates, next_body, encoding))
            for _ in range(connections)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = sent.last - began
        own, cpu = time.process_time() - own, _cpu_s(processes) - cpu
        _expect_all(server, sent)
        peak = sum(_peak_rss(process) for process in processes)
    latencies = np.sort(sent.latencies)
    million = sent.spans / 1e6
    name = f"{spans} spans x {connections}, {encoding}" + (f", {rate:,.0f}/s" if rate else "")
    return Run(
        name, sent.spans, sent.refused, took, sent.spans / took, sent.spans / took,
        float(np.quantile(latencies, 0.5)), float(np.quantile(latencies, 0.99)),
        cpu / million, own / million, peak,
    )  # fmt: skip


def _send(
    server: Server, sent: _Sent, templates: list[Template], next_body: Callable[[], tuple[int, bytes] | None],
    encoding: str,
) -> None:  # fmt: skip
    pages = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
    spans = templates[0].spans
    with _connected(server, encoding) as post:
        while (taken := next_body()) is not None:
            number, body = taken
            began = time.monotonic()
            refusal = post(body)
            if refusal is None and sent.probe_now():
                pages.request("GET", f"/api/trace?trace_id={templates[number % len(templates)].trace_id(number)}")
                page = pages.getresponse()
                page.read()
                if page.status != 200:
                    sent.faults.append(f"body {number} was answered before its spans could be read: {page.status}")
            ended = time.monotonic()
            with sent.lock:
                if refusal is None:
                    sent.spans += spans
                    sent.latencies.append(ended - began)
                    sent.last = max(sent.last, ended)
                else:
                    sent.refused += spans
                    if refusal != _BUSY:
                        sent.faults.append(refusal)
            if refusal == _BUSY:
                time.sleep(1)
    pages.close()


_BUSY = "busy"


@contextmanager
def _connected(server: Server, encoding: str) -> Iterator[Callable[[bytes], str | None]]:
    """A connection of its own; each call sends one body and gives None once it is stored, else why it is not."""
    if encoding == "gRPC":
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=options) as channel:
            export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")

            def call(body: bytes) -> str | None:
                try:
                    return repr(answer) if (answer := export(body, timeout=60)) else None
                except grpc.RpcError as error:
                    return _BUSY if error.code() == grpc.StatusCode.UNAVAILABLE else f"{error.code()} {error.details()}"

            yield call
        return
    headers = {"Content-Type": "application/x-protobuf"} | ({"Content-Encoding": "gzip"} if encoding == "gzip" else {})
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)

    def post(body: bytes) -> str | None:
        connection.request("POST", "/v1/traces", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status == 200 and not text:
            return None
        return _BUSY if answer.status == 503 else f"{answer.status} {text[:200]!r}"

    yield post
    connection.close()


def _expect_all(server: Server, sent: _Sent) -> None:
    """Waits until a query counts what was accepted; large counts may be 10 s old."""
    deadline = time.monotonic() + 30
    while (stored := server.live_spans()) != sent.spans and time.monotonic() < deadline:
        time.sleep(0.5)
    if stored != sent.spans:
        sent.faults.append(f"accepted {sent.spans}, stored {stored}")
    if sent.faults:
        raise SystemExit(f"{len(sent.faults)} faults, the first: {sent.faults[0]}")


def _processes(server: Server) -> list[int]:
    """The server and its children."""
    found = [server.process.pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _cpu_s(processes: list[int]) -> float:
    total = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def _peak_rss(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=8.0, help="length of each run")
    arguments.add_argument("--short", action="store_true", help="saturation without gzip only")
    options = arguments.parse_args()
    runs: dict[str, Run] = {}
    small, large = ([Template(seed, spans) for seed in range(_TEMPLATES)] for spans in (512, 8192))
    size = sum(len(one.data) for one in large) // (8192 * len(large))
    print(f"{size} B a span")
    plans: list[tuple[str, list[Template], int, str]] = [
        ("8192", large, 2, "identity"),
        ("512", small, 8, "identity"),
        ("8192_gzip", large, 2, "gzip"),
        ("512_gzip", small, 8, "gzip"),
        ("8192_grpc", large, 2, "gRPC"),
        ("512_grpc", small, 8, "gRPC"),
    ]
    for key, templates, connections, encoding in plans[:2] if options.short else plans:
        _add(runs, key, templates, connections, options.seconds, encoding)
    if not options.short:
        half = runs["512"].queryable_per_s / 2
        _add(runs, "512_half", small, 8, options.seconds, "identity", half)
    summary = {
        "r0": round(runs["8192"].r0),
        "r0_memory_kept": round(runs["8192"].r0_memory_kept),
        "ratio_8192": round(runs["8192"].ratio, 3),
        "ratio_512": round(runs["512"].ratio, 3),
        "peak_rss_bytes": max(run.peak_rss_bytes for run in runs.values()),
        "disk_bytes_per_span": round(max(run.disk_bytes_per_span for run in runs.values()), 1),
        "p99_queryable_s": round(runs["512_half" if "512_half" in runs else "512"].p99_s, 3),
        "cpu_s_per_million": round(runs["8192"].cpu_s_per_million, 2),
        "refused_spans": sum(run.refused for run in runs.values()),
        "runs": {
            key: {name: round(value, 4) for name, value in asdict(run).items() if not isinstance(value, str)}
            for key, run in runs.items()
        },
    }
    print(json.dumps(summary))


def _add(
    runs: dict[str, Run], key: str, templates: list[Template], connections: int, seconds: float, encoding: str,
    rate: float = 0.0,
) -> None:  # fmt: skip
    bodies = [template.data.tobytes() for template in templates]
    before = parse_rates(bodies, templates[0].spans)
    run = measure(templates, connections, seconds, encoding, rate)
    after = parse_rates(bodies, templates[0].spans)
    run.r0, run.r0_memory_kept = (before.alone + after.alone) / 2, (before.memory_kept + after.memory_kept) / 2
    run.ratio = run.queryable_per_s / run.r0
    runs[key] = run
    print(
        f"{run.name}: {run.queryable_per_s:,.0f} queryable/s, {run.ratio:.3f} of R0 {run.r0:,.0f} "
        f"({run.r0_memory_kept:,.0f} where memory is kept); send to queryable "
        f"p50 {run.p50_s:.3f} s, p99 {run.p99_s:.3f} s; refused {run.refused}; {run.cpu_s_per_million:.2f} CPU-s a "
        f"million (sender {run.sender_cpu_s_per_million:.2f}); peak {run.peak_rss_bytes / 2**20:.0f} MiB; "
        f"{run.disk_bytes_per_span:.0f} B a span on disk",
        flush=True,
    )


if __name__ == "__main__":
    main()
