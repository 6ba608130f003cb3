"""Requests that match filters: the list of traces."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.span import Spans
from analysis.trace_reports import TraceList, TraceListRow

_LONGEST_NS = 2**63 - 1

_ORDERS = {
    "slowest": "duration_ns desc, start_ns desc, trace_id, span_id",
    "newest": "start_ns desc, duration_ns desc, trace_id, span_id",
}


@dataclass(frozen=True)
class TraceFilter:
    """What to list; empty and zero mean any."""

    service: str = ""
    endpoint: str = ""
    min_duration_ns: int = 0
    max_duration_ns: int = 0
    errors_only: bool = False
    order: str = "slowest"
    """`slowest` or `newest`; ties fall to the newer, then to the smaller id, so pages never overlap."""

    def __post_init__(self) -> None:
        if self.order not in _ORDERS:
            raise ValueError(f"order {self.order!r} is not one of {', '.join(sorted(_ORDERS))}")


_MATCHING = """
    from requests
    where request_class in ('request', 'candidate')
      and ($service = '' or service = $service)
      and ($endpoint = '' or endpoint = $endpoint)
      and duration_ns >= $min_duration_ns and duration_ns <= $max_duration_ns
      and ($errors_only = 0 or outcome <> 'ok')
"""


def trace_list(spans: Spans, wanted: TraceFilter, limit: int = 50, offset: int = 0) -> TraceList:
    """One page of the requests that match, how many match in all, and what can be filtered by."""
    parameters: dict[str, object] = {
        "service": wanted.service,
        "endpoint": wanted.endpoint,
        "min_duration_ns": wanted.min_duration_ns,
        "max_duration_ns": wanted.max_duration_ns or _LONGEST_NS,
        "errors_only": int(wanted.errors_only),
    }
    rows = spans.rows(
        f"""
        select replace(trace_id::varchar, '-', '') as trace, span_id, service, endpoint, start_ns, duration_ns,
               outcome, error_type, http_status
        {_MATCHING}
        order by {_ORDERS[wanted.order]}
        limit $limit offset $offset
        """,
        **parameters,
        limit=limit,
        offset=offset,
    )
    matched = int(spans.rows(f"select count(*) as n {_MATCHING} order by n", **parameters)[0][0])
    sizes = _span_counts(spans, sorted({row[0] for row in rows}))
    endpoints = tuple(
        (service, endpoint)
        for service, endpoint in spans.rows(
            """
            select distinct service, endpoint from requests
            where request_class in ('request', 'candidate')
            order by service, endpoint
            """
        )
    )
    return TraceList(
        rows=tuple(TraceListRow(*(*row, sizes.get(row[0], 1))) for row in rows),
        matched=matched,
        services=tuple(dict.fromkeys(service for service, _ in endpoints)),
        endpoints=endpoints,
    )


def _span_counts(spans: Spans, trace_ids: list[str]) -> dict[str, int]:
    if not trace_ids:
        return {}
    rows = spans.rows(
        """
        select replace(trace_id::varchar, '-', '') as trace, count(*) as n from trace_spans
        where trace_id in (select unnest($trace_ids)::uuid)
        group by trace_id
        order by trace_id
        """,
        trace_ids=trace_ids,
    )
    return {trace: int(count) for trace, count in rows}
