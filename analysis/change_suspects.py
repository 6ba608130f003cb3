"""Which service an endpoint's change of level points to: requests drawn evenly from before and from after it."""

from __future__ import annotations

from analysis.endpoint_reports import Suspect
from analysis.node import Node
from analysis.sample import linked_traces
from analysis.span import Spans
from analysis.suspects import suspects

MOST = 150
MIN_REQUESTS = 20
CLEAR_SCORE = 1.0
CLEAR_FACTOR = 1.5
"""A suspect is named where it leads in deviation or cost and stands half above the next."""


def clear_suspect(spans: Spans, service: str, endpoint: str, first_ns: int, at_ns: int, last_ns: int) -> Suspect | None:
    """The service at fault for what changed at `at_ns` between the two other times; None where none is clearly so."""
    rows = spans.rows(
        """
        select replace(trace_id::varchar, '-', '') as trace, span_id, later from (
            select trace_id, span_id, start_ns >= $at_ns as later,
                   row_number() over (
                       partition by start_ns >= $at_ns order by md5(trace_id::varchar), span_id
                   ) as place
            from requests
            where service = $service and endpoint = $endpoint and start_ns >= $first_ns and start_ns < $last_ns
        ) as ranked
        where place <= $most
        order by later, place
        """,
        service=service,
        endpoint=endpoint,
        first_ns=first_ns,
        at_ns=at_ns,
        last_ns=last_ns,
        most=MOST,
    )
    traces = linked_traces(spans, [trace_id for trace_id, *_ in rows])
    sides: dict[bool, list[Node]] = {False: [], True: []}
    for trace_id, span_id, later in rows:
        node = traces[trace_id].nodes.get(int(span_id))
        if node is not None and node.span.service == service:
            sides[bool(later)].append(node)
    if min(map(len, sides.values())) < MIN_REQUESTS:
        return None
    first, *rest = suspects(sides[False], sides[True])
    clear = first.score >= CLEAR_SCORE and (not rest or first.score >= CLEAR_FACTOR * rest[0].score)
    return first if clear else None
