"""How long the pages take over millions of spans: `python -m tests.bench.query`.

A real server over a store that `tests.bench.large_store` wrote, each page asked over loopback HTTP for the last hour
and for everything: cold (the first answer of a fresh process, the file in the system's cache), new (a window that was
not asked for before) and warm (asked again). The summary's `p95` are of the cold and new answers, which are computed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import httpx
import numpy as np

from app.links import LAST, instant_text
from tests.bench.large_store import DAY_NS, write_store
from tests.server import Server, running_server

SIZES = (1_000_000, 3_610_000, 10_000_000, 30_000_000)
"""3.61 million spans are a million requests."""
WINDOWS = {"hour": "1h", "all": "all"}
_WARM = 10
_NEW = 3
_SPANS_A_SECOND_WRITTEN = 150_000
_ENDPOINT = {"service": "gateway", "endpoint": "GET /checkout/{cart_id}"}

PAGES = {
    "overview": ("/", {}),
    "endpoint": ("/endpoint", _ENDPOINT),
    "queues": ("/queues", {}),
    "retries": ("/retries", {}),
    "fixes": ("/fixes", {}),
}

Times = dict[str, list[float]]
"""Milliseconds by kind: `cold`, `new`, `warm`."""


def page_url(page: str, window: str) -> str:
    path, more = PAGES[page]
    return f"{path}?{urlencode({'dataset': '0', 'last': WINDOWS[window], **more})}"


def new_url(page: str, window: str, end_ns: int, number: int) -> str:
    """The page for a window of about the same spans that nobody has asked for."""
    path, more = PAGES[page]
    length_ns = LAST["1h"] if window == "hour" else DAY_NS
    start, end = instant_text(end_ns - length_ns - number), instant_text(end_ns)
    return f"{path}?{urlencode({'dataset': '0', 'from': start, 'to': end, **more})}"


def asked(client: httpx.Client, url: str) -> float:
    """Milliseconds until the whole page is there; anything but a page ends the bench."""
    began = time.perf_counter()
    answer = client.get(url)
    took = (time.perf_counter() - began) * 1000
    if answer.status_code != 200:
        raise SystemExit(f"{url} was answered with {answer.status_code} after {took:.0f} ms: {answer.text[-400:]}")
    return took


@contextmanager
def large_server(folder: Path) -> Iterator[tuple[Server, httpx.Client]]:
    """A server on the folder's store, with time enough for the slowest page."""
    with (
        running_server(folder, SPANWISE_QUERY_TIMEOUT_S="120") as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=130.0) as client,
    ):
        yield server, client


def large_folder(spans: int, scratch: Path) -> Path:
    """A folder under `scratch` with a store of so many spans that end about now."""
    folder = scratch / str(spans)
    folder.mkdir()
    end_ns = time.time_ns() + spans * 1_000_000_000 // _SPANS_A_SECOND_WRITTEN
    written = write_store(folder / "spanwise.duckdb", spans, end_ns)
    print(
        f"{written.spans:,} spans written in {written.seconds:.0f} s, {written.bytes / 2**20:,.0f} MiB",
        flush=True,
    )
    return folder


def measure(folder: Path, pages: Sequence[str], cold: int) -> dict[str, dict[str, Times]]:
    """Times by window and page, and those of a trace by its id."""
    found: dict[str, dict[str, Times]] = {window: {} for window in WINDOWS}
    for window in WINDOWS:
        for page in pages:
            url = page_url(page, window)
            times: Times = {"cold": [], "new": [], "warm": []}
            for _ in range(cold):
                with large_server(folder) as (_, client):
                    times["cold"].append(asked(client, url))
                    if len(times["cold"]) < cold:
                        continue
                    times["warm"] = [asked(client, url) for _ in range(_WARM)]
                    end_ns = time.time_ns()
                    times["new"] = [asked(client, new_url(page, window, end_ns, number)) for number in range(_NEW)]
            found[window][page] = times
            print(f"{window} {page}: {_told(times)}", flush=True)
    found["trace"] = {"trace": _traces(folder)}
    print(f"trace by id: {_told(found['trace']['trace'])}", flush=True)
    return found


def _traces(folder: Path) -> Times:
    """Twenty traces all over the store, each asked for once, so that none comes out of a cache."""
    with large_server(folder) as (_, client):
        listed = client.get("/api/traces?dataset=0&last=all&limit=20").json()["report"]["rows"]
        times = [asked(client, f"/trace/{row['trace_id']}?dataset=0&last=all") for row in listed]
    return {"cold": times[:1], "new": times[1:], "warm": []}


def _told(times: Times) -> str:
    return ", ".join(f"{kind} {' '.join(f'{value:.0f}' for value in values)}" for kind, values in times.items()) + " ms"


def p95(values: Sequence[float]) -> float:
    return round(float(np.quantile(values, 0.95)), 1) if values else 0.0


def summary(found: dict[str, dict[str, Times]]) -> dict[str, object]:
    """One size's figures."""
    computed = {
        window: [value for times in found[window].values() for kind in ("cold", "new") for value in times[kind]]
        for window in found
    }
    return {
        "hour_p95_ms": p95(computed["hour"]),
        "all_p95_ms": p95(computed["all"]),
        "trace_ms": p95(computed["trace"]),
        **{
            f"{window}_warm_p95_ms": p95([value for times in found[window].values() for value in times["warm"]])
            for window in WINDOWS
        },
        "pages": {
            window: {page: {kind: p95(values) for kind, values in times.items()} for page, times in pages.items()}
            for window, pages in found.items()
            if window in WINDOWS
        },
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--spans", default=",".join(map(str, SIZES)), help="sizes of the store, by commas")
    arguments.add_argument("--pages", default=",".join(PAGES), help="pages to ask, by commas")
    arguments.add_argument("--cold", type=int, default=2, help="fresh processes a page and window")
    options = arguments.parse_args()
    sizes = [int(size) for size in options.spans.split(",")]
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="spanwise-bench-") as scratch:
        for size in sizes:
            folder = large_folder(size, Path(scratch))
            results[str(size)] = summary(measure(folder, options.pages.split(","), options.cold))
            shutil.rmtree(folder)
    print(json.dumps({"spans": results}))


if __name__ == "__main__":
    main()
