"""Requests worth opening: the ones nearest to a quantile, the slowest, a failed one."""

from __future__ import annotations

from dataclasses import asdict

from analysis.endpoint_reports import IN_REGION, Exemplar, Region, Side
from analysis.reports import EndpointRow
from analysis.span import Spans


def exemplars(spans: Spans, row: EndpointRow) -> tuple[Exemplar, ...]:
    """Of all requests of an endpoint: at p50, p95, p99, the slowest, and a failed one where there is one."""
    wanted = [("p50", row.p50.value_ns), ("p95", row.p95.value_ns), ("p99", row.p99.value_ns)]
    return _found(spans, row.service, row.endpoint, Region(), wanted, failed=row.errors > 0)


def exemplars_in(spans: Spans, service: str, endpoint: str, region: Region, chosen: Side) -> tuple[Exemplar, ...]:
    """Of the requests in a region: at their p50, the slowest, and a failed one where there is one."""
    return _found(spans, service, endpoint, region, [("p50", chosen.p50_ns)], failed=chosen.failed > 0)


def _found(
    spans: Spans, service: str, endpoint: str, region: Region, wanted: list[tuple[str, int | None]], *, failed: bool
) -> tuple[Exemplar, ...]:
    # One pass over the requests for all of them: a query each took four times as long.
    values = {f"value_{number}": value_ns for number, (_, value_ns) in enumerate(wanted) if value_ns is not None}
    orders = [
        (label, f"abs(duration_ns - $value_{number})")
        for number, (label, value_ns) in enumerate(wanted)
        if value_ns is not None
    ]
    orders.append(("slowest", "-duration_ns"))
    if failed:
        orders.append(("error", "case when outcome = 'ok' then 1 else 0 end"))
    [picked] = spans.rows(
        f"""
        select {", ".join(f"arg_min(request, ({order}, start_ns, span_id))" for _, order in orders)} from (
            select {{
                'trace_id': trace_id, 'span_id': span_id, 'start_ns': start_ns, 'duration_ns': duration_ns,
                'outcome': outcome
            }} as request, start_ns, duration_ns, span_id, outcome from requests
            where service = $service and endpoint = $endpoint and request_class in ('request', 'candidate')
              and {IN_REGION}
        ) as requests
        """,  # noqa: S608 - constant orders
        service=service,
        endpoint=endpoint,
        **asdict(region),
        **values,
    )
    return tuple(
        Exemplar(
            label,
            found["trace_id"].hex,
            found["span_id"],
            found["start_ns"],
            found["duration_ns"],
            found["outcome"] != "ok",
        )
        for (label, _), found in zip(orders, picked, strict=True)
        if found is not None
    )
