"""Drawn traces as trees and as whole samples, without a store."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.draw import tail_quantile
from analysis.node import Node
from analysis.quantiles import sample_quantile
from analysis.sample import Sample, SampledRequest
from analysis.sketch import EPOCH_NS, sketch
from analysis.span import Span
from analysis.trace import Trace, build_trace

SECOND_NS = 1_000_000_000


def drawn_trace(text: str, trace: int = 1, start_ns: int = EPOCH_NS) -> Trace:
    """One drawn trace as a tree."""
    return build_trace(sketch(text, trace, start_ns))


def drawn_request(text: str, trace: int = 1, start_ns: int = EPOCH_NS) -> Node:
    """The first root of one drawn trace."""
    return drawn_trace(text, trace, start_ns).roots[0]


def repeated(text: str, times: int, apart_ns: int = SECOND_NS) -> list[list[Span]]:
    """The drawn trace over and over, under other trace ids and at later times."""
    return [sketch(text, number + 1, EPOCH_NS + number * apart_ns) for number in range(times)]


def samples_of(traces: Sequence[Sequence[Span]]) -> list[Sample]:
    """A whole sample of each endpoint in the traces."""
    by_endpoint: dict[tuple[str, str], list[tuple[Trace, Node]]] = {}
    for spans in traces:
        trace = build_trace(spans)
        for root in trace.requests():
            by_endpoint.setdefault((root.span.service, root.span.endpoint), []).append((trace, root))
    return [_sample(service, endpoint, found) for (service, endpoint), found in by_endpoint.items()]


def _sample(service: str, endpoint: str, found: list[tuple[Trace, Node]]) -> Sample:
    ordered = sorted(root.duration_ns for _, root in found)
    quantile = tail_quantile(len(found))
    low, high, tail = (sample_quantile(ordered, q) for q in (0.4, 0.6, quantile))
    requests = tuple(
        SampledRequest(
            trace,
            root,
            root.duration_ns,
            weight=1.0,
            stratum=0,
            in_tail=root.duration_ns >= tail,
            in_body=low <= root.duration_ns <= high,
        )
        for trace, root in found
    )
    return Sample(service, endpoint, len(found), quantile, tail, low, high, None, requests)
