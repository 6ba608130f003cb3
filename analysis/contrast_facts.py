"""What is known of a request apart from its times: attributes of its spans and resources, and the calls it makes."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from analysis.sample import SampledRequest
from analysis.semantics import OperationClass
from analysis.span import Spans, trace_bounds

CALLS = "calls"
"""Key of what a service calls: the value is the operation, the number how often."""
OUTCOME = "outcome"
MAX_VALUE_LENGTH = 120
_MAX_ATTRIBUTES = 128

_SYMPTOMS = re.compile(
    r"(^|[._])(status|status_code|exception|error|errors|outcome|result|retry|retries|resend_count|attempt|try"
    r"|duration|elapsed|latency|took|wait)([._]|$)|_(ms|ns|us|seconds)$"
)
_OF_A_MOMENT = frozenset(
    {
        "client.port",
        "net.peer.port",
        "net.sock.peer.port",
        "network.peer.port",
        "source.port",
        "thread.id",
        "thread.name",
        "code.lineno",
    }
)
"""Which connection or thread it happened to be; a burst of slow requests on one says nothing that lasts."""
_IDENTITIES = re.compile(r"(^|[._])(id|pid|port|timestamp|time|at)$")


class Place(NamedTuple):
    """Where a value was found: an attribute of a service's spans or resource."""

    service: str
    key: str


@dataclass(eq=False)
class Facts:
    """One request's."""

    trace_id: str
    values: dict[Place, set[str]] = field(default_factory=lambda: defaultdict(set))
    numbers: dict[Place, float] = field(default_factory=dict)
    """The largest where there are several."""


def is_symptom(key: str) -> bool:
    """Whether an attribute says how a request went rather than why: it restates what is to be explained."""
    return bool(_SYMPTOMS.search(key.lower()))


def facts_of(spans: Spans, requests: Sequence[SampledRequest]) -> list[Facts]:
    """The facts of each request; one load of the attributes of all their traces."""
    attributes = _attributes(spans, [request.trace.trace_id for request in requests])
    return [_facts(request, attributes) for request in requests]


_Texts = Mapping[tuple[str, int, int], tuple[str, str]]
"""(attributes, resource attributes) as JSON text by trace id, span id and span hash."""


def _attributes(spans: Spans, trace_ids: Iterable[str]) -> _Texts:
    wanted = list(dict.fromkeys(trace_ids))
    if not wanted:
        return {}
    first_ns, last_ns = trace_bounds(spans, "select unnest($trace_ids)::uuid", trace_ids=wanted)
    # By place: attributes of every part of the file with a span of these were unpacked, 183 ms instead of 55 of 3.6
    # million spans.
    rows = spans.arrays(
        """
        select replace(s.trace_id::varchar, '-', ''), s.span_id, s.span_hash, s.attributes,
               coalesce(r.attributes, '{}')
        from trace_spans as s
        left join resources as r on r.resource_id = s.resource_id
        where s.place in (
            select place from trace_spans
            where trace_id in (select unnest($trace_ids)::uuid) and start_ns between $first_ns and $last_ns
        )
        order by s.trace_id, s.start_ns, s.span_id, s.span_hash
        """,
        trace_ids=wanted,
        first_ns=first_ns,
        last_ns=last_ns,
    )
    return {tuple(row[:3]): tuple(row[3:]) for row in rows}


def _facts(request: SampledRequest, attributes: _Texts) -> Facts:
    facts = Facts(request.trace.trace_id)
    calls: Counter[Place] = Counter()
    for node in request.root.walk():
        span = node.span
        if node.driver_copy or span.operation_class == OperationClass.ASGI:
            continue
        for text in attributes.get((span.trace_id, span.span_id, span.span_hash), ()):
            for key, value, number in _members(text):
                place = Place(span.service, key)
                facts.values[place].add(value)
                if number is not None:
                    facts.numbers[place] = max(number, facts.numbers.get(place, number))
        if span.failed:
            facts.values[Place(span.service, OUTCOME)].add(span.error_type or span.outcome)
        if not node.is_entry:
            facts.values[Place(span.service, CALLS)].add(node.called[:MAX_VALUE_LENGTH])
            calls[Place(span.service, f"{CALLS} of {node.called[:MAX_VALUE_LENGTH]}")] += 1
    for place, count in calls.items():
        facts.numbers[place] = float(count)
    return facts


@lru_cache(maxsize=8192)
def _members(text: str) -> tuple[tuple[str, str, float | None], ...]:
    """(key, value as text, value as a number) of an attribute map without nested values; an id is no number."""
    try:
        found = json.loads(text)
    except ValueError:
        return ()
    members: list[tuple[str, str, float | None]] = []
    for key, value in list(found.items())[:_MAX_ATTRIBUTES] if isinstance(found, dict) else ():
        if key in _OF_A_MOMENT:
            continue
        if isinstance(value, bool):
            members.append((key, "true" if value else "false", None))
        elif isinstance(value, str):
            members.append((key, value[:MAX_VALUE_LENGTH], None))
        elif isinstance(value, int | float):
            members.append((key, str(value), None if _IDENTITIES.search(key.lower()) else float(value)))
    return tuple(members)
