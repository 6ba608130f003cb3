"""What decoding costs beside Google's parser alone, in protobuf and JSON: `python -m tests.bench.decode`.

The same requests in both encodings, as exporters write them; processor time of one process, the best of five rounds.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Callable, Sequence

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.ingest.freed_memory import keep_freed_memory
from app.otlp.json import decode_json_bodies
from app.otlp.json_records import decode_json_by_record
from app.otlp.protobuf import decode_bodies
from app.otlp.protobuf_records import decode_by_record
from tests.bench.bodies import Template

_SIZES = (512, 8192)
_SPANS = 32_768
_ROUNDS = 5
_KINDS = {"SPAN_KIND_SERVER": 2, "SPAN_KIND_CLIENT": 3}


def in_json(body: bytes) -> bytes:
    """The request as exporters write it in JSON: ids in hexadecimal, enums as numbers."""
    document = MessageToDict(ExportTraceServiceRequest.FromString(body))
    for resource_spans in document["resourceSpans"]:
        for scope_spans in resource_spans["scopeSpans"]:
            for span in scope_spans["spans"]:
                ids = {name: b64decode(span[name]).hex() for name in ("traceId", "spanId", "parentSpanId")}
                span |= ids | {"kind": _KINDS[span["kind"]]}
    return json.dumps(document, separators=(",", ":")).encode()


def cost_us(decode: Callable[[bytes], object], bodies: Sequence[bytes], spans: int) -> float:
    """Microseconds of processor time a span."""
    rounds = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        for one in bodies:
            decode(one)
        rounds.append((time.process_time() - began) / (spans * len(bodies)) * 1e6)
    return min(rounds)


def main() -> None:
    keep_freed_memory()
    summary: dict[str, dict[str, float]] = {}
    for spans in _SIZES:
        template = Template(1, spans)
        bodies = [template.body(number) for number in range(_SPANS // spans)]
        texts = [in_json(body) for body in bodies]
        found = {
            "parser_us": cost_us(ExportTraceServiceRequest.FromString, bodies, spans),
            "protobuf_us": cost_us(lambda body: decode_bodies([body]), bodies, spans),
            "json_us": cost_us(lambda text: decode_json_bodies([text]), texts, spans),
            "protobuf_by_record_us": cost_us(decode_by_record, bodies[:2], spans),
            "json_by_record_us": cost_us(decode_json_by_record, texts[:2], spans),
        }
        found["json_to_protobuf"] = found["json_us"] / found["protobuf_us"]
        summary[str(spans)] = {name: round(value, 2) for name, value in found.items()}
        size, text_size = len(bodies[0]) // spans, len(texts[0]) // spans
        print(f"{spans} spans, {size} B a span in protobuf, {text_size} in JSON: {summary[str(spans)]}", flush=True)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
