"""Senders that keep a journal of what a server acknowledged, and the look into its store that compares both.

A batch is one request; its number stands in the ids of its spans, so that a store tells of every batch whether it is
there whole, in part or twice. What was not acknowledged is sent again, unchanged, as exporters do.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc
import numpy as np

from analysis.span import Window
from app.store.base import LIVE
from app.store.duckdb import DuckStore
from tests.bench.bodies import Template
from tests.server import Server

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PROTOBUF = {"Content-Type": "application/x-protobuf"}
SIZES = (1, 30, 512, 8192)
ALL = Window(0, 2**63 - 1)
_TIMEOUT_S = 20.0


class NumberedSpans(Template):
    """Bodies whose span ids are the body's number and the span's place in it."""

    def body(self, number: int) -> bytes:
        data = np.frombuffer(super().body(number), np.uint8).copy()
        ids = np.arange(1, self.spans + 1, dtype=np.uint64) + np.uint64(number << 32)
        self._write(self._rows(data), "span_id", ids.astype(">u8").view(np.uint8).reshape(-1, 8))
        return data.tobytes()


@dataclass
class Journal:
    """What was sent and answered; shared by all senders of a test."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    number: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    """Spans of every batch that was ever sent, by its number."""
    acknowledged: set[int] = field(default_factory=set)
    unanswered: list[int] = field(default_factory=list)
    """Sent at least once, and not acknowledged: to be sent again."""
    repeated: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    """How often each way of not being acknowledged came."""

    def __post_init__(self) -> None:
        self.templates = {size: NumberedSpans(size, size) for size in SIZES}

    def next(self, chance: Random) -> tuple[int, bytes]:
        """A batch that waits for being sent again, now and then, else a new one."""
        with self.lock:
            if self.unanswered and chance.random() < 0.5:
                number = self.unanswered.pop(0)
                self.repeated += 1
            else:
                self.number = number = self.number + 1
                self.sizes[number] = chance.choices(SIZES, (6, 6, 3, 1))[0]
            size = self.sizes[number]
        return number, self.templates[size].body(number)

    def answered(self, number: int, refusal: str) -> None:
        """Notes an answer, or what came instead of one."""
        with self.lock:
            if refusal:
                self.unanswered.append(number)
                self.refusals[refusal] = self.refusals.get(refusal, 0) + 1
            else:
                self.acknowledged.add(number)

    @property
    def acknowledged_spans(self) -> int:
        with self.lock:
            return sum(self.sizes[number] for number in self.acknowledged)


@contextmanager
def sending(server: Server, journal: Journal, seed: int) -> Iterator[None]:
    """Sends until the block ends; it ends when every request under way is answered or broken off."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=send, args=(server, journal, Random(f"{seed} {number}"), stop))
        for number, send in enumerate([_send_http] * 3 + [_send_grpc] * 2)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(2 * _TIMEOUT_S)
            assert not thread.is_alive()


def _send_http(server: Server, journal: Journal, chance: Random, stop: threading.Event) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=_TIMEOUT_S)
    while not stop.is_set():
        number, body = journal.next(chance)
        refusal = "connection"
        try:
            connection.request("POST", "/v1/traces", body, PROTOBUF)
            answer = connection.getresponse()
            text = answer.read()
            refusal = "" if answer.status == 200 and not text else str(answer.status)
            if refusal == "503" and not answer.headers["Retry-After"]:
                refusal = "503 without Retry-After"
        except (OSError, http.client.HTTPException):
            connection.close()
        journal.answered(number, refusal)
        if refusal:
            time.sleep(0.02)
    connection.close()


def _send_grpc(server: Server, journal: Journal, chance: Random, stop: threading.Event) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        export = channel.unary_unary(EXPORT)
        while not stop.is_set():
            number, body = journal.next(chance)
            refusal = ""
            try:
                if export(body, timeout=_TIMEOUT_S):
                    refusal = "partial success"
            except grpc.RpcError as error:
                refusal = error.code().name
            journal.answered(number, refusal)
            if refusal:
                time.sleep(0.02)


def deliver_rest(server: Server, journal: Journal) -> None:
    """Sends all that is not acknowledged, each once more; everything must be taken."""
    with server.client() as client:
        for number in sorted(set(journal.sizes) - journal.acknowledged):
            body = journal.templates[journal.sizes[number]].body(number)
            client.post("/v1/traces", content=body, headers=PROTOBUF).raise_for_status()
            journal.acknowledged.add(number)
    journal.unanswered.clear()


def expect_whole(data: Path, journal: Journal) -> set[int]:
    """Compares the store of a server that has ended with the journal; gives which unanswered batches it holds.

    The files are left as a crash left them: the log is not merged into the database.
    """
    store = DuckStore(str(data))
    try:
        with store.read(LIVE, ALL, 60) as spans:
            rows = spans.rows(
                """
                select (span_id >> 32)::bigint, count(*), count(distinct span_id),
                    sum((span_id & 4294967295)::bigint)::bigint, count(distinct trace_id)
                from spans group by all
                """
            )
        found = {number: tuple(counts) for number, *counts in rows}
        whole = {number: (size, size, size * (size + 1) // 2, -(-size // 8)) for number, size in journal.sizes.items()}
        partial = {number: counts for number, counts in found.items() if counts != whole.get(number)}
        assert not partial, f"in part, twice or never sent: {partial}"
        missing = journal.acknowledged - set(found)
        assert not missing, f"{len(missing)} of {len(journal.acknowledged)} acknowledged batches are missing: {missing}"
        assert store.damage().set_aside == ()
        return set(found) - journal.acknowledged
    finally:
        store._close_connections()
