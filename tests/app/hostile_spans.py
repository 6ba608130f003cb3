"""Spans whose names and values try to become markup, script or template, one trace a payload."""

from __future__ import annotations

from app.otlp.columns import Batch
from app.otlp.records import BatchBuilder, EventRecord, LinkRecord, SpanRecord

START_NS = 1_763_900_000_000_000_000
MS = 1_000_000
PAYLOADS = (
    "<b class=injected>bold</b>",
    "<script class=injected>window.hacked=1</script>",
    '"><img class=injected src=x onerror=window.hacked=1>',
    "' onmouseover=window.hacked=1 x='",
    "</script><script class=injected>window.hacked=1</script>",
    "</title><svg class=injected onload=window.hacked=1>",
    "{{7*7}}{%x%}",
    "%{x}<extra>$\\alpha$</extra>",
    "javascript:window.hacked=1",
    "__proto__",
    "constructor",
    "<a href='javascript:window.hacked=1' class=injected>x</a>",
    "\x1b[31m\u202eevil",
    "W" * 300,
)


def hostile_batch(repeats: int = 40) -> Batch:
    """Each payload as service, span, attribute, event, link, status and scope; some requests slow, some failed."""
    builder = BatchBuilder()
    span_id = 0
    for number in range(repeats * len(PAYLOADS)):
        payload = PAYLOADS[number % len(PAYLOADS)]
        trace_id = (number + 1).to_bytes(16, "big")
        resource = builder.resource({"service.name": payload, payload: payload})
        scope = builder.scope(payload, payload)
        start_ns = START_NS + number * 100 * MS
        length_ns = (900 if number % 37 == 0 else 40 + number % 5) * MS
        span_id += 1
        root = span_id
        failed = number % 11 == 0
        attributes = {
            "http.route": f"/{payload}",
            "http.request.method": "GET",
            "url": "https://example.org/?a=1&b=<i>",
            "link": "https://example.org/?a=1&b=2",
            payload: {payload: [payload]},
        }
        builder.add(
            SpanRecord(
                trace_id,
                root,
                f"GET /{payload}",
                2,
                start_ns,
                start_ns + length_ns,
                flags=0x100,
                status_code=2 if failed else 0,
                status_message=payload,
                trace_state=payload,
                attributes=attributes,  # type: ignore[arg-type]
                events=[EventRecord(start_ns, payload, {"exception.type": payload, "exception.message": payload})],
                links=[LinkRecord(trace_id, root, payload, 0, {payload: payload})],
            ),
            resource,
            scope,
        )
        for call in range(6):
            span_id += 1
            begin_ns = start_ns + call * length_ns // 7
            builder.add(
                SpanRecord(
                    trace_id,
                    span_id,
                    f"SELECT {payload}",
                    3,
                    begin_ns,
                    begin_ns + length_ns // 8,
                    parent_span_id=root,
                    flags=0x100,
                    attributes={
                        "db.system": "postgresql",
                        "db.name": payload,
                        "db.statement": f'select * from "{payload}" where id = {call}',
                    },
                ),
                resource,
                scope,
            )
    return builder.finish()
