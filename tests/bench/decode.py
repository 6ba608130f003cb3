"""Rate of the protobuf decoder beside the official parser alone, on realistic spans: `python -m tests.bench.decode`."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.otlp.protobuf import decode_protobuf

SPANS = 512
BODIES = 40


def body(seed: int, spans: int = SPANS) -> bytes:
    """One request; ten attributes a span, of which user, duration, URL and connection differ nearly every time."""
    chance = random.Random(seed)
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    for key, value in (("service.name", "checkout"), ("service.instance.id", "checkout-1"), ("host.name", "node-7")):
        resource_spans.resource.attributes.add(key=key).value.string_value = value
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = "opentelemetry.instrumentation.fastapi"
    for _ in range(spans):
        span = scope_spans.spans.add(
            trace_id=chance.randbytes(16),
            span_id=chance.randbytes(8),
            parent_span_id=chance.randbytes(8),
            name=f"GET /cart/{chance.randrange(20)}",
            kind=chance.choice([2, 3]),
            start_time_unix_nano=1_790_000_000_000_000_000 + chance.randrange(10**12),
            flags=0x101,
        )
        span.end_time_unix_nano = span.start_time_unix_nano + chance.randrange(10**9)
        for key, text in (
            ("http.request.method", "GET"),
            ("url.scheme", "http"),
            ("http.route", f"/cart/{chance.randrange(20)}"),
            ("server.address", "checkout.internal"),
            ("network.protocol.version", "1.1"),
            ("user.id", str(chance.randrange(50_000))),
            ("user_agent.original", f"client/{chance.randrange(8)}"),
        ):
            span.attributes.add(key=key).value.string_value = text
        span.attributes.add(key="http.response.status_code").value.int_value = 500 if chance.random() < 0.02 else 200
        span.attributes.add(key="client.port").value.int_value = chance.randrange(32_768, 60_999)
        span.attributes.add(key="cart.total").value.double_value = round(chance.random() * 100, 2)
    data: bytes = request.SerializeToString()
    return data


def rate(work: Callable[[bytes], object], bodies: list[bytes]) -> float:
    """Spans in a second of processor time."""
    began = time.process_time()
    for one in bodies:
        work(one)
    return SPANS * len(bodies) / (time.process_time() - began)


def walk(data: bytes) -> list[str]:
    """What a decoder does that looks at every attribute with the official classes."""
    request = ExportTraceServiceRequest.FromString(data)
    texts = []
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                values = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}
                texts.append(json.dumps(values))
    return texts


def main() -> None:
    bodies = [body(seed) for seed in range(BODIES)]
    parse = rate(ExportTraceServiceRequest.FromString, bodies)
    walked = rate(walk, bodies)
    decode = rate(decode_protobuf, bodies)
    again = rate(decode_protobuf, bodies[:10])
    again = rate(decode_protobuf, bodies[:10])
    ipc = rate(lambda one: decode_protobuf(one).to_ipc(), bodies)
    size = sum(map(len, bodies)) // (SPANS * BODIES)
    print(f"{size} B a span; official parser {parse:,.0f} spans/s, decoder {decode:,.0f} ({decode / parse:.2f}),")
    print(f"official parser and a walk over the attributes alone {walked:,.0f} spans/s,")
    print(f"decoder and transfer {ipc:,.0f} spans/s; decoder with every attribute seen before {again:,.0f} spans/s")


if __name__ == "__main__":
    main()
