"""Spans in an in-memory store, with the handle that analyses read them through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from analysis.sketch import EPOCH_NS, sketched_spans
from analysis.span import Kind, Spans, Window
from app.otlp.attributes import AttributeValue
from app.otlp.columns import Batch
from app.otlp.records import BatchBuilder, EventRecord, LinkRecord, SpanRecord
from app.store import open_store
from app.store.base import LIVE

MS = 1_000_000


@contextmanager
def stored(batches: Sequence[Batch], window: Window | None = None) -> Iterator[Spans]:
    """A handle on the batches, in a window that just holds them all unless one is given."""
    store = open_store(":memory:")
    try:
        for batch in batches:
            store.append(LIVE, [batch])
        with store.read(LIVE, window or whole_window(batches), 60.0) as spans:
            yield spans
    finally:
        store.close()


def whole_window(batches: Sequence[Batch]) -> Window:
    """From the first start to just after the last."""
    starts = [start for batch in batches for start in batch.spans.column("start_ns").to_pylist()]
    return Window(min(starts), max(starts) + 1)


@dataclass
class Drawn:
    """Hand-made spans: `add` returns the span's id; times in milliseconds after `EPOCH_NS`."""

    records: list[tuple[str, str, str, SpanRecord]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    """service.version by instance, where one has any."""

    def add(
        self,
        service: str,
        name: str,
        start_ms: float,
        end_ms: float,
        *,
        kind: Kind = Kind.CLIENT,
        parent: int = 0,
        remote: bool = False,
        trace: int = 1,
        scope: str = "test",
        error: str = "",
        instance: str = "1",
        links: Sequence[tuple[int, int]] = (),
        status_message: str = "",
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> int:
        """`error` is the type of an exception that the span recorded; links are (trace, span)."""
        span_id = len(self.records) + 1
        events = (
            [EventRecord(EPOCH_NS, "exception", {"exception.type": error, "exception.message": ""})] if error else []
        )
        record = SpanRecord(
            trace_id=trace.to_bytes(16, "big"),
            span_id=span_id,
            name=name,
            kind=kind,
            start_ns=EPOCH_NS + round(start_ms * MS),
            end_ns=EPOCH_NS + round(end_ms * MS),
            parent_span_id=parent,
            flags=0x300 if remote else 0x100,
            status_code=2 if error else 0,
            status_message=status_message,
            attributes=dict(attributes or {}),
            events=events,
            links=[LinkRecord(linked.to_bytes(16, "big"), span) for linked, span in links],
        )
        self.records.append((service, instance, scope, record))
        return span_id

    def batch(self, relabel: Callable[[int], int] = lambda number: number) -> Batch:
        """All spans; `relabel` renames every trace and span id."""
        builder = BatchBuilder()
        for service, instance, scope, record in self.records:
            said: dict[str, AttributeValue] = {"service.name": service, "service.instance.id": f"{service}-{instance}"}
            if instance in self.versions:
                said["service.version"] = self.versions[instance]
            resource = builder.resource(said)
            copy = SpanRecord(
                **{
                    **{name: getattr(record, name) for name in SpanRecord.__slots__},
                    "trace_id": relabel(int.from_bytes(record.trace_id, "big")).to_bytes(16, "big"),
                    "span_id": relabel(record.span_id),
                    "parent_span_id": relabel(record.parent_span_id) if record.parent_span_id else 0,
                    "links": [
                        LinkRecord(
                            relabel(int.from_bytes(link.trace_id, "big")).to_bytes(16, "big"), relabel(link.span_id)
                        )
                        for link in record.links
                    ],
                }
            )
            assert builder.add(copy, resource, builder.scope(scope))
        return builder.finish()


def sketched_batch(texts: Iterable[str], apart_ns: int = 1_000_000_000) -> Batch:
    """Traces drawn as in `analysis.sketch`, one after another."""
    builder = BatchBuilder()
    for number, text in enumerate(texts):
        for drawn in sketched_spans(text, number + 1, EPOCH_NS + number * apart_ns):
            span = drawn.span
            failed = span.error_type == "TimeoutError"
            record = SpanRecord(
                trace_id=bytes.fromhex(span.trace_id),
                span_id=span.span_id,
                name=span.name,
                kind=span.kind,
                start_ns=span.start_ns,
                end_ns=span.end_ns,
                parent_span_id=span.parent_span_id,
                flags=drawn.flags,
                status_code=span.status,
                attributes=dict(drawn.attributes),  # type: ignore[arg-type]
                events=[EventRecord(span.start_ns, "exception", {"exception.type": "TimeoutError"})] if failed else [],
            )
            resource = builder.resource({"service.name": span.service, "service.instance.id": span.instance})
            builder.add(record, resource, builder.scope(span.scope_name))
    return builder.finish()
