"""The reports that programs may ask for: path, analysis and parameters in one table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from analysis.chosen import chosen_report
from analysis.compare import compare_traces
from analysis.endpoint_reports import Region
from analysis.fixes import fixes
from analysis.overview import overview
from analysis.queueing import queue_waits
from analysis.retries import retry_costs
from analysis.search import TraceFilter, trace_list
from analysis.tail import endpoint_report
from analysis.trace_view import span_detail, trace_report
from app.links import BadScope, check_region, parse_instant, parse_span, parse_trace_id

MAX_ROWS = 1000
_MAX_OFFSET = 1_000_000


@dataclass(frozen=True)
class Operation:
    """One report: `function(spans, *arguments(parameters))`."""

    path: str
    function: Callable[..., object]
    parameters: tuple[str, ...]
    arguments: Callable[[Mapping[str, str]], tuple[object, ...]]
    """Reads the parameters; raises BadScope."""
    summary: str


def _required(parameters: Mapping[str, str], name: str) -> str:
    if name not in parameters:
        raise BadScope(f"“{name}” is missing")
    return parameters[name]


def _number(parameters: Mapping[str, str], name: str, default: int, largest: int) -> int:
    text = parameters.get(name, "") or str(default)
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or int(text) > largest:
        raise BadScope(f"{name}={text[:40]!r} is not a whole number from 0 to {largest}")
    return int(text)


def _trace_id(parameters: Mapping[str, str], name: str = "trace_id") -> str:
    return parse_trace_id(name, _required(parameters, name))


def _endpoint(parameters: Mapping[str, str]) -> tuple[object, ...]:
    return _required(parameters, "service"), _required(parameters, "endpoint")


_LONGEST_NS = 2**63 - 1
_REGION = ("began_from", "began_to", "min_duration_ns", "max_duration_ns")


def _region(parameters: Mapping[str, str]) -> Region:
    given = {name: parameters.get(name, "") for name in _REGION}
    ends = Region()
    region = Region(
        parse_instant("began_from", given["began_from"]) if given["began_from"] else ends.from_ns,
        parse_instant("began_to", given["began_to"]) if given["began_to"] else ends.to_ns,
        _number(parameters, "min_duration_ns", ends.low_ns, _LONGEST_NS),
        _number(parameters, "max_duration_ns", ends.high_ns, _LONGEST_NS),
    )
    if region == ends:
        raise BadScope("no request is chosen: give “began_from”, “began_to”, “min_duration_ns” or “max_duration_ns”")
    check_region(region, given)
    return region


def _chosen(parameters: Mapping[str, str]) -> tuple[object, ...]:
    return *_endpoint(parameters), _region(parameters)


def _trace(parameters: Mapping[str, str]) -> tuple[object, ...]:
    return (_trace_id(parameters),)


def _span(parameters: Mapping[str, str]) -> tuple[object, ...]:
    return _trace_id(parameters), parse_span(_required(parameters, "span_id"))


def _compared(parameters: Mapping[str, str]) -> tuple[object, ...]:
    sides = (("trace_id", "span_id"), ("other_trace_id", "other_span_id"))
    return tuple(
        part
        for trace, span in sides
        for part in (_trace_id(parameters, trace), parse_span(parameters[span]) if parameters.get(span) else None)
    )


def _traces(parameters: Mapping[str, str]) -> tuple[object, ...]:
    try:
        wanted = TraceFilter(
            parameters.get("service", ""),
            parameters.get("endpoint", ""),
            _number(parameters, "min_duration_ns", 0, _LONGEST_NS),
            _number(parameters, "max_duration_ns", 0, _LONGEST_NS),
            parameters.get("errors_only") == "1",
            parameters.get("order", "slowest"),
        )
    except ValueError as error:
        raise BadScope(str(error)) from None
    limit = max(1, _number(parameters, "limit", 50, MAX_ROWS))
    return wanted, limit, _number(parameters, "offset", 0, _MAX_OFFSET)


def _none(parameters: Mapping[str, str]) -> tuple[object, ...]:
    return ()


OPERATIONS = (
    Operation(
        "/api/endpoints", overview, (), _none, "Endpoints with counts, errors and quantiles; services and edges."
    ),
    Operation("/api/endpoint", endpoint_report, ("service", "endpoint"), _endpoint, "The tail of one endpoint."),
    Operation(
        "/api/chosen",
        chosen_report,
        ("service", "endpoint", *_REGION),
        _chosen,
        "Requests chosen by when they began and how long they took, against the endpoint's others.",
    ),
    Operation("/api/queues", queue_waits, (), _none, "Where requests wait."),
    Operation("/api/retries", retry_costs, (), _none, "What retries cost."),
    Operation("/api/fixes", fixes, (), _none, "What to change first, with the gain that it should bring."),
    Operation(
        "/api/traces",
        trace_list,
        ("service", "endpoint", "min_duration_ns", "max_duration_ns", "errors_only", "order", "limit", "offset"),
        _traces,
        "Requests that match, slowest or newest first.",
    ),
    Operation("/api/trace", trace_report, ("trace_id",), _trace, "One trace with its critical path."),
    Operation(
        "/api/compare",
        compare_traces,
        ("trace_id", "span_id", "other_trace_id", "other_span_id"),
        _compared,
        "Two requests laid over each other.",
    ),
    Operation("/api/span", span_detail, ("trace_id", "span_id"), _span, "One span with all that was recorded."),
)
"""Every path also takes `dataset`, `last`, `from` and `to`, as pages do."""
