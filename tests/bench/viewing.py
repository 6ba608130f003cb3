"""How long the overview takes while spans arrive: `python -m tests.bench.viewing`.

A real server over a store that `tests.bench.large_store` wrote. Bodies made beforehand come at a constant rate, their
spans all within the last hour, and the overview is asked for every second over loopback HTTP, from the first second on:
the first answer has to be computed. The loop's lag is the one that the server measures of itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from tests.bench.bodies import FIRST_START_NS, NS_A_SPAN, Template
from tests.bench.query import asked, large_folder, large_server
from tests.server import Server

_SPANS_A_BODY = 512
_TEMPLATES = 6
_CONNECTIONS = 2
_OVERVIEW = "/?dataset=0&last=1h"


@dataclass
class _Sent:
    lock: threading.Lock = field(default_factory=threading.Lock)
    number: int = 0
    accepted: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    ended: float = 0.0


def bodies(rate: int, seconds: int) -> list[bytes]:
    """Requests whose spans start within seconds of now."""
    templates = [Template(seed, _SPANS_A_BODY) for seed in range(_TEMPLATES)]
    first = (time.time_ns() - FIRST_START_NS) // (NS_A_SPAN * _SPANS_A_BODY)
    return [
        templates[number % _TEMPLATES].body(first + number) for number in range(-(-rate * seconds // _SPANS_A_BODY))
    ]


def measure(folder: Path, rate: int, seconds: int) -> dict[str, object]:
    """The figures of one run."""
    ready = bodies(rate, seconds)
    with large_server(folder) as (server, client):
        sent, began = _Sent(), time.monotonic()
        threads = [threading.Thread(target=_send, args=(server, sent, ready, began, rate)) for _ in range(_CONNECTIONS)]
        for thread in threads:
            thread.start()
        took_ms = _view(client, began, seconds)
        for thread in threads:
            thread.join()
        report = client.get("/api/ingest").json()
    if sent.faults:
        raise SystemExit(f"{len(sent.faults)} faults, the first: {sent.faults[0]}")
    lag = report["loop_lag"]
    return {
        "offered_per_s": rate,
        "accepted_per_s": round(sent.accepted / (sent.ended - began)),
        "refused": sent.refused,
        "views": len(took_ms),
        "overview_first_ms": round(took_ms[0], 1),
        "overview_p50_ms": round(float(np.quantile(took_ms, 0.5)), 1),
        "overview_p95_ms": round(float(np.quantile(took_ms, 0.95)), 1),
        "overview_max_ms": round(max(took_ms), 1),
        "loop_lag_p50_ms": round(lag["p50_ns"] / 1e6, 1),
        "loop_lag_p99_ms": round(lag["p99_ns"] / 1e6, 1),
    }


def _view(client: httpx.Client, began: float, seconds: int) -> list[float]:
    """Milliseconds of each look, one a second; a look that takes longer than that delays the next."""
    took_ms: list[float] = []
    while (now := time.monotonic()) < began + seconds:
        took_ms.append(asked(client, _OVERVIEW))
        time.sleep(max(0.0, now + 1 - time.monotonic()))
    return took_ms


def _send(server: Server, sent: _Sent, ready: list[bytes], began: float, rate: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
    while True:
        with sent.lock:
            number = sent.number
            sent.number += 1
        if number >= len(ready):
            break
        time.sleep(max(0.0, began + number * _SPANS_A_BODY / rate - time.monotonic()))
        connection.request("POST", "/v1/traces", ready[number], {"Content-Type": "application/x-protobuf"})
        answer = connection.getresponse()
        text = answer.read()
        with sent.lock:
            sent.ended = time.monotonic()
            if answer.status == 200 and not text:
                sent.accepted += _SPANS_A_BODY
            else:
                sent.refused += _SPANS_A_BODY
                if answer.status != 503:
                    sent.faults.append(f"{answer.status} {text[:200]!r}")
        if answer.status == 503:
            time.sleep(1)
    connection.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--spans", type=int, default=10_000_000, help="spans in the store before")
    arguments.add_argument("--rate", type=int, default=20_000, help="spans sent a second")
    arguments.add_argument("--seconds", type=int, default=60)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="spanwise-bench-") as scratch:
        folder = large_folder(options.spans, Path(scratch))
        found = measure(folder, options.rate, options.seconds)
    print(json.dumps({"spans_in_store": options.spans, **found}))


if __name__ == "__main__":
    main()
