"""Random traces for property tests: trees with overflow, orphans, cycles, doubled ids and several services."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from analysis.semantics import OperationClass, ParentOrigin, RequestClass
from analysis.span import Kind, Span

SERVICES = ("a", "b", "c")
CLASSES = tuple(OperationClass)


def span(span_id: int, parent: int, start_ns: int, end_ns: int, **changes: Any) -> Span:
    """A plain INTERNAL span of service `a`; roots are SERVER spans."""
    kind = changes.pop("kind", Kind.INTERNAL if parent else Kind.SERVER)
    values: dict[str, Any] = {
        "trace_id": f"{1:032x}",
        "span_id": span_id,
        "parent_span_id": parent,
        "parent_origin": ParentOrigin.LOCAL if parent else ParentOrigin.ROOT,
        "kind": kind,
        "service": "a",
        "instance": "a-1",
        "host": "",
        "scope_name": "test",
        "name": f"span {span_id}",
        "endpoint": f"span {span_id}",
        "operation_class": OperationClass.SERVER if kind == Kind.SERVER else OperationClass.INTERNAL,
        "operation": f"span {span_id}",
        "peer": "",
        "start_ns": start_ns,
        "duration_ns": end_ns - start_ns,
        "status": 0,
        "outcome": "ok",
        "error_type": "",
        "http_status": 0,
        "attempt": 0,
        "ready_ns": 0,
        "message_id": "",
        "target_hash": 0,
        "request_class": RequestClass.REQUEST if kind == Kind.SERVER else RequestClass.NONE,
        "span_hash": span_id * 1_000_003 + start_ns * 7 + end_ns,
    }
    return Span(**{**values, **changes})


@st.composite
def random_traces(draw: st.DrawFn, max_spans: int = 12, max_ns: int = 10_000) -> list[Span]:
    """Up to `max_spans` spans; parents may be missing, later, or in a cycle, and children may outlive them."""
    count = draw(st.integers(1, max_spans))
    spans = []
    for number in range(1, count + 1):
        start = draw(st.integers(0, max_ns))
        kind = draw(st.sampled_from((Kind.INTERNAL, Kind.CLIENT, Kind.SERVER, Kind.PRODUCER, Kind.CONSUMER)))
        classes = {
            Kind.SERVER: OperationClass.SERVER,
            Kind.CONSUMER: OperationClass.CONSUMER,
            Kind.PRODUCER: OperationClass.PRODUCER,
        }
        spans.append(
            span(
                draw(st.integers(1, count)) if draw(st.integers(0, 9)) == 0 else number,
                draw(st.integers(0, count + 1)),
                start,
                start + draw(st.integers(0, max_ns)),
                kind=kind,
                service=draw(st.sampled_from(SERVICES)),
                operation=draw(st.sampled_from(("GET /x", "select ?", "GET /y"))),
                operation_class=classes.get(kind) or draw(st.sampled_from(CLASSES)),
                outcome=draw(st.sampled_from(("ok", "ok", "error", "timeout"))),
            )
        )
    return spans


def deep_chain(length: int) -> list[Span]:
    """A chain in which every span is the child of the one before, each a nanosecond shorter on both sides."""
    return [span(n + 1, n, n, 3 * length - n) for n in range(length)]
