"""Request bodies as an instrumented web service sends them, no two alike."""

from __future__ import annotations

import struct
from random import Random

import numpy as np
import numpy.typing as npt
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SPANS_A_TRACE = 8
FIRST_START_NS, _DURATION_NS = 1_790_000_000_000_000_000, 123_456_789
NS_A_SPAN = 1_000
_HEX_PAIRS = np.frombuffer(bytes(range(256)).hex().encode(), np.uint16)

Bytes = npt.NDArray[np.uint8]


class Template:
    """One encoded request in which ids, times and two of ten attributes are written anew for each sending.

    All spans take the same number of bytes, so that this is a few assignments to columns.
    """

    def __init__(self, seed: int, spans: int) -> None:
        self.spans = spans
        self.data = np.frombuffer(_encoded(seed, spans), np.uint8)
        text = self.data.tobytes()
        first = text.index(_trace_id(seed, 0))
        # The trace id is a span's first field, after its tag and length.
        last = text.rindex(_trace_id(seed, (spans - 1) // SPANS_A_TRACE))
        self._size = (last - first) // (spans - 1) if spans > 1 else len(text) - first
        one = text[first : first + self._size]
        chance = np.random.default_rng(seed)
        self._offset = first
        self._trace_ids = np.repeat(_random(chance, (spans // SPANS_A_TRACE + 1, 16)), SPANS_A_TRACE, axis=0)[:spans]
        self._span_ids = _random(chance, (spans, 8))
        self._places = {
            "span_id": one.index(struct.pack(">Q", 1), 16),
            "parent_span_id": one.index(struct.pack(">Q", 2), 16),
            "start": one.index(struct.pack("<Q", FIRST_START_NS)),
            "end": one.index(struct.pack("<Q", FIRST_START_NS + _DURATION_NS)),
            "user": one.index(b"u" * 16),
            "total": one.index(struct.pack("<d", 1.5)),
        }
        self._durations_ns = (chance.lognormal(16, 1, spans)).astype(np.uint64)
        self._users = _random(chance, (spans, 8))
        self._totals = chance.random(spans) * 10_000

    def body(self, number: int) -> bytes:
        """The request with ids, users and totals that no other number gives, and times that follow on."""
        data = self.data.copy()
        rows = self._rows(data)
        mask = np.frombuffer(Random(number).randbytes(8), np.uint8)
        ids = self._span_ids ^ mask
        rows[:, :16] = self._trace_ids ^ np.tile(mask, 2)
        self._write(rows, "span_id", ids)
        self._write(rows, "parent_span_id", np.roll(ids, 1, axis=0))
        starts = (
            np.uint64(FIRST_START_NS)
            + (np.uint64(number * self.spans) + np.arange(self.spans, dtype=np.uint64)) * NS_A_SPAN
        )
        self._write(rows, "start", starts.view(np.uint8).reshape(-1, 8))
        self._write(rows, "end", (starts + self._durations_ns).view(np.uint8).reshape(-1, 8))
        self._write(rows, "user", _HEX_PAIRS[self._users ^ mask].view(np.uint8).reshape(-1, 16))
        self._write(rows, "total", (self._totals + number / 1_000).view(np.uint8).reshape(-1, 8))
        return data.tobytes()

    def trace_id(self, number: int) -> str:
        """A trace of that request."""
        mask = np.frombuffer(Random(number).randbytes(8), np.uint8)
        return bytes(self._trace_ids[0] ^ np.tile(mask, 2)).hex()

    def _rows(self, data: Bytes) -> Bytes:
        """A row of bytes a span; the last span ends with the body, one tag and length earlier than the stride."""
        length = len(data) - self._offset - self._size * (self.spans - 1)
        return np.lib.stride_tricks.as_strided(data[self._offset :], (self.spans, length), (self._size, 1))

    def _write(self, rows: Bytes, field: str, values: Bytes) -> None:
        place = self._places[field]
        rows[:, place : place + values.shape[1]] = values


def _random(chance: np.random.Generator, shape: tuple[int, int]) -> Bytes:
    return chance.integers(0, 256, shape, np.uint8)


def _trace_id(seed: int, trace: int) -> bytes:
    return struct.pack(">QQ", 0xA55A_5AA5_0F0F_F0F0 + seed, trace + 1)


def _encoded(seed: int, spans: int) -> bytes:
    """Ten attributes a span, about 390 B; the fields that `Template.body` writes hold marks."""
    chance = Random(seed)
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    for key, value in (("service.name", "checkout"), ("service.instance.id", "checkout-1"), ("host.name", "node-7")):
        resource_spans.resource.attributes.add(key=key).value.string_value = value
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = "opentelemetry.instrumentation.fastapi"
    for number in range(spans):
        method, route = chance.choice(["GET", "PUT"]), f"/cart/{10 + chance.randrange(20)}"
        span = scope_spans.spans.add(
            trace_id=_trace_id(seed, number // SPANS_A_TRACE),
            span_id=struct.pack(">Q", 1),
            parent_span_id=struct.pack(">Q", 2),
            name=f"{method} {route}",
            kind=chance.choice([2, 3]),
            start_time_unix_nano=FIRST_START_NS,
            end_time_unix_nano=FIRST_START_NS + _DURATION_NS,
            flags=0x101,
        )
        for key, text in (
            ("http.request.method", method),
            ("url.scheme", "http"),
            ("http.route", route),
            ("server.address", "checkout.internal"),
            ("network.protocol.version", "1.1"),
            ("enduser.id", "u" * 16),
            ("user_agent.original", f"python-httpx/0.28.{chance.randrange(8)}"),
        ):
            span.attributes.add(key=key).value.string_value = text
        span.attributes.add(key="http.response.status_code").value.int_value = 500 if chance.random() < 0.02 else 200
        span.attributes.add(key="thread.id").value.int_value = chance.randrange(1, 64)
        span.attributes.add(key="cart.total").value.double_value = 1.5
    data: bytes = request.SerializeToString()
    return data
