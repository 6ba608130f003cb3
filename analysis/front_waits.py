"""Waits in front of the application: load balancer, listen backlog, proxy. Only a captured header tells."""

from __future__ import annotations

from collections import defaultdict

from analysis.reports import QueueRow
from analysis.span import Spans
from analysis.waits import Key, wait_rows

# Below 5 ms the difference says more about two clocks than about a queue.
_WORTH_NS = 5_000_000

_WAITS = """
    select trace_id, span_id, parent_span_id, service as first, 'in front of ' || service as second,
           greatest(start_ns - ready_ns, 0) as value_ns, 0 as failed, ready_ns as arrival_ns, duration_ns as work_ns
    from spans
    where operation_class = 'server' and ready_ns > 0
"""

HEADER_ADVICE = (
    "Spans do not say how long requests waited in front of {services}, in a load balancer or listen backlog. Let the "
    "load balancer set X-Request-Start and start the application with "
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST=x-request-start"
)


def front_rows(spans: Spans) -> list[QueueRow]:
    """One row for each service whose requests carry X-Request-Start and waited at least 5 ms once."""
    early = spans.rows(
        """
        select service, count(*) as n, max(ready_ns - start_ns) as most_ns from spans
        where operation_class = 'server' and ready_ns > start_ns
        group by service
        order by service
        """
    )
    notes: defaultdict[Key, list[str]] = defaultdict(list)
    for service, count, most_ns in early:
        notes[service, f"in front of {service}"].append(
            f"{count} request{'s' if count != 1 else ''} began before X-Request-Start by up to {most_ns / 1e6:.1f} ms: "
            "the clocks of load balancer and application differ. Counted as no wait."
        )
    rows = wait_rows(spans, _WAITS, kind="front", confidence="measured", notes=notes)
    return [row for row in rows if row.max_ns >= _WORTH_NS]


def front_advice(spans: Spans) -> list[str]:
    """The setting that would show this wait, where requests enter the system and nothing says when they came."""
    rows = spans.rows(
        """
        select service from spans
        where operation_class = 'server' and request_class = 'request'
        group by service
        having max(ready_ns) = 0 and max(case when parent_origin = 'root' then 1 else 0 end) = 1
        order by service
        """
    )
    if not rows:
        return []
    names = [row[0] for row in rows]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [HEADER_ADVICE.format(services=shown)]
