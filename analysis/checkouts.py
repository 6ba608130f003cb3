"""Checkouts of SQLAlchemy's pool, `connect` spans: which of them waited for a connection and which opened one.

A checkout with driver spans below it opens the first connection of its engine. The ones that open later connections
have nothing below them and look like waits: a wait is one during which as many connections were in use as the pool
had at any time near it, and that ended as one of them was let go. Where only a share of requests is kept that cannot
be told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from analysis.node import Node
from analysis.quantiles import Integers
from analysis.sampling import ADJUSTED_COUNT
from analysis.semantics import OperationClass
from analysis.span import Spans

CHECKOUT_NS = 1_000_000
"""What a checkout may take when a connection is free; SQLAlchemy's took 0.1 to 0.9 ms."""
HAND_OFF_NS = 30_000_000
"""From a request's last query to its connection's return: ROLLBACK and the pool's reset took up to 25 ms."""
SLACK_NS = 3_000_000
"""Ends of spans in one process were seen up to 3 ms out of order."""
_CROWDED = 1 / 3
"""Where fewer checkouts than this end in a hand-over, chance explains them: a connection opened for each request."""
_JUDGED = 100
_SECOND_NS = 1_000_000_000
_BEFORE_S = 2
_LONGEST_REQUEST_NS = 60 * _SECOND_NS
"""How long before those seconds a request may have begun that still holds its connection: servers time out by then."""

_IN_TRANSIT = 0.1
"""Share of a busy pool's connections that may be on their way from one request to the next, in use by neither."""

Pool = tuple[str, str, str]
"""Service, instance and database."""


class Holds:
    """The connections of one pool in use over time: when each was asked for, taken and let go, in any order."""

    def __init__(self, asked_ns: Integers, taken_ns: Integers, released_ns: Integers) -> None:
        order = np.lexsort((asked_ns, taken_ns, released_ns))
        asked_ns, taken_ns, released_ns = asked_ns[order], taken_ns[order], released_ns[order]
        self._taken, self._released = taken_ns, released_ns
        times = np.concatenate([taken_ns, released_ns])
        steps = np.repeat(np.array([1, -1]), (len(taken_ns), len(released_ns)))
        # At one moment releases come first: what is let go can be taken.
        order = np.lexsort((steps, times))
        self._times = np.append(np.iinfo(np.int64).min, times[order])
        self._in_use = np.append(0, np.cumsum(steps[order]))
        peak = int(self._in_use.max())
        self._full = max(1, peak - int(_IN_TRANSIT * peak))
        waits = np.flatnonzero(taken_ns - asked_ns > CHECKOUT_NS)
        judged = waits[:: max(1, len(waits) // _JUDGED)]
        handed = [self.handed_over(int(asked_ns[at]), int(taken_ns[at])) for at in judged]
        self.crowded = sum(handed) >= _CROWDED * len(handed)

    def handed_over(self, start_ns: int, end_ns: int) -> bool:
        """Whether a checkout ended as a connection was let go, all having been in use, some for half of its time."""
        first = np.searchsorted(self._released, end_ns - HAND_OFF_NS)
        last = np.searchsorted(self._released, end_ns + SLACK_NS, side="right")
        # The checkout's own connection is taken as it ends.
        if not (self._taken[first:last] < end_ns).any():
            return False
        first, last = np.searchsorted(self._times, (start_ns + 1, end_ns))
        in_use = self._in_use[first - 1 : last]
        busy_ns = np.diff(self._times[first:last], prepend=start_ns, append=end_ns)[in_use > 0].sum()
        # Before a short wait connections may be on their way to others already.
        before = np.searchsorted(self._times, start_ns - HAND_OFF_NS, side="right")
        return bool(busy_ns >= (end_ns - start_ns) / 2 and self._in_use[before - 1 : last].max() >= self._full)


def mark_openings(spans: Spans, nodes: Iterable[Node]) -> None:
    """Sets `opens_connection` of the checkouts among the nodes: whether nobody handed them a connection."""
    doubtful: defaultdict[Pool, list[Node]] = defaultdict(list)
    for node in nodes:
        if _doubtful(node):
            doubtful[node.span.service, node.span.instance, node.span.peer].append(node)
    if not doubtful:
        return
    kept_all, held = _holds_near(spans, doubtful)
    for pool, checkouts in doubtful.items():
        holds = next((holds for holds in held.get(pool, ()) if holds.crowded), None)
        for checkout in checkouts:
            if holds and holds.handed_over(checkout.span.start_ns, checkout.span.end_ns):
                checkout.opens_connection = False
            elif kept_all:
                checkout.opens_connection = True
                checkout.notes.append("opens a connection: no other request gave one back as it ended")
            else:
                checkout.notes.append("waits for a connection or opens one: not every request is kept to tell by")


def _doubtful(node: Node) -> bool:
    span = node.span
    return (
        span.operation_class == OperationClass.POOL
        and not node.opens_connection
        and span.outcome == "ok"
        and span.duration_ns > CHECKOUT_NS
    )


_NEAR = f"""
    with processes as (
        select unnest($numbers) as process, unnest($services) as service, unnest($instances) as instance
    )
    select process, service, peer, trace_id, span_id, parent_span_id, operation_class, start_ns,
           start_ns + duration_ns as end_ns, {ADJUSTED_COUNT} as adjusted_count
    from trace_spans join processes using (service, instance)
    where operation_class in ('pool', 'database', 'database_session') and (operation_class <> 'pool' or outcome = 'ok')
      and start_ns between $first_ns and $last_ns and start_ns // 1000000000 in (select unnest($seconds))
"""  # noqa: S608 - constants only

# A connection counts as one of the pool's from when its opening begins.
_HELD = """
    select taken.process, taken.service, taken.peer, taken.trace_id, taken.start_ns as asked_ns,
           case when taken.span_id in (select parent_span_id from near where operation_class <> 'pool')
                then taken.start_ns else taken.end_ns end as taken_ns,
           max(used.end_ns) as released_ns
    from (select * from near where operation_class <> 'pool') as used
    asof join (select * from near where operation_class = 'pool') as taken
      on taken.trace_id = used.trace_id and taken.parent_span_id = used.parent_span_id
     and taken.end_ns <= used.start_ns
    group by taken.process, taken.service, taken.peer, taken.trace_id, taken.span_id, taken.start_ns, taken.end_ns
"""

_TO_THE_LAST_QUERY = """
    select process, peer, list(asked_ns), list(taken_ns), list(released_ns)
    from held group by process, peer order by process, peer
"""

# Without the driver's ROLLBACK and COMMIT a connection may be held until its request ends.
_TO_THE_END = """
    select process, peer, list(asked_ns), list(taken_ns), list(released_ns)
    from (
        select held.process, held.peer, held.asked_ns, held.taken_ns,
               max(requests.start_ns + requests.duration_ns) as released_ns
        from held join requests on requests.trace_id = held.trace_id and requests.service = held.service
        where requests.start_ns between $first_ns and held.asked_ns
          and requests.start_ns + requests.duration_ns >= held.released_ns
          and (held.process, held.peer) not in (
              select (process, peer) from near where operation_class = 'database_session'
          )
        group by held.process, held.peer, held.trace_id, held.asked_ns, held.taken_ns
    ) as holds
    group by process, peer order by process, peer
"""


def _holds_near(spans: Spans, checkouts: Mapping[Pool, Sequence[Node]]) -> tuple[bool, dict[Pool, list[Holds]]]:
    """Whether every request is kept, and connections in use while the checkouts waited, in one or two readings.

    A connection taken more than twice the wait before is not seen.
    """
    seconds: set[int] = set()
    for node in (node for found in checkouts.values() for node in found):
        first, last = node.span.start_ns // _SECOND_NS, node.span.end_ns // _SECOND_NS
        seconds.update(range(first - (last - first) - _BEFORE_S, last + 2))
    processes = sorted({(service, instance) for service, instance, _ in checkouts})
    first_ns, last_ns = min(seconds) * _SECOND_NS, (max(seconds) + 1) * _SECOND_NS
    spans.keep(
        "near",
        _NEAR,
        numbers=list(range(len(processes))),
        services=[service for service, _ in processes],
        instances=[instance for _, instance in processes],
        first_ns=first_ns,
        last_ns=last_ns,
        seconds=sorted(seconds),
    )
    spans.keep("held", _HELD)
    found: defaultdict[Pool, list[Holds]] = defaultdict(list)
    for number, peer, *times in spans.arrays(_TO_THE_LAST_QUERY):
        found[*processes[number], peer].append(Holds(*times))
    if not all(holds.crowded for (holds,) in found.values()):
        for number, peer, *times in spans.arrays(_TO_THE_END, first_ns=first_ns - _LONGEST_REQUEST_NS):
            found[*processes[number], peer].append(Holds(*times))
    [(most,)] = spans.rows("select coalesce(max(adjusted_count), 1) as most from near order by most")
    return most == 1, found
