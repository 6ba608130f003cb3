"""Checkouts of SQLAlchemy's pool, `connect` spans: which of them waited for a connection and which opened one.

A checkout with driver spans below it opens the first connection of its engine. The ones that open later connections
have nothing below them and look like waits: a wait is one during which as many connections were in use as the pool
had at any time near it, and that ended as one of them was let go. Where only a share of requests is kept that cannot
be told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

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


# Joined in numpy and with few words: three joins in SQL made it 45 ms of a page of one trace instead of 22.
_NEAR = """
    select service, instance, peer, operation_class, max(trace_state),
           list((hash(trace_id) >> 1)::bigint), list((hash(trace_id, parent_span_id) >> 1)::bigint),
           list((hash(trace_id, span_id) >> 1)::bigint), list(start_ns), list(start_ns + duration_ns)
    from trace_spans
    where operation_class in ('pool', 'database', 'database_session') and (operation_class <> 'pool' or outcome = 'ok')
      and start_ns between $first_ns and $last_ns and start_ns // 1000000000 in (select unnest($seconds))
      and service in (select unnest($services)) and instance in (select unnest($instances))
    group by service, instance, peer, operation_class order by service, instance, peer, operation_class
"""

_REQUESTS = """
    select service, list((hash(trace_id) >> 1)::bigint), list(start_ns), list(start_ns + duration_ns)
    from requests where service in (select unnest($services)) and start_ns between $first_ns and $last_ns
    group by service order by service
"""

_MOST = f"""
    select coalesce(max({ADJUSTED_COUNT}), 1) as most from trace_spans
    where operation_class = 'pool' and start_ns between $first_ns and $last_ns order by most
"""  # noqa: S608 - constants only


class _Held(NamedTuple):
    """Arrays with a value for each checkout after which a query came."""

    trace: Integers
    asked_ns: Integers
    taken_ns: Integers
    released_ns: Integers


def _holds_near(spans: Spans, checkouts: Mapping[Pool, Sequence[Node]]) -> tuple[bool, dict[Pool, list[Holds]]]:
    """Whether every request is kept, and connections in use while the checkouts waited, in one or two readings.

    A connection taken more than twice the wait before is not seen.
    """
    seconds: set[int] = set()
    for node in (node for found in checkouts.values() for node in found):
        first, last = node.span.start_ns // _SECOND_NS, node.span.end_ns // _SECOND_NS
        seconds.update(range(first - (last - first) - _BEFORE_S, last + 2))
    first_ns, last_ns = min(seconds) * _SECOND_NS, (max(seconds) + 1) * _SECOND_NS
    rows = spans.arrays(
        _NEAR,
        services=sorted({service for service, _, _ in checkouts}),
        instances=sorted({instance for _, instance, _ in checkouts}),
        first_ns=first_ns,
        last_ns=last_ns,
        seconds=sorted(seconds),
    )
    taken: defaultdict[Pool, list[Sequence[Integers]]] = defaultdict(list)
    used: defaultdict[Pool, list[Sequence[Integers]]] = defaultdict(list)
    ends_seen = set()
    for service, instance, peer, operation_class, _, *columns in rows:
        is_checkout = operation_class == OperationClass.POOL
        (taken if is_checkout else used)[service, instance, peer].append(columns)
        if operation_class == OperationClass.DATABASE_SESSION:
            ends_seen.add((service, instance, peer))
    found: dict[Pool, list[Holds]] = {}
    unseen_ends: dict[Pool, _Held] = {}
    for pool in sorted(taken.keys() & used.keys() & checkouts.keys()):
        held = _held(taken[pool][0], [np.concatenate(parts) for parts in zip(*used[pool], strict=True)])
        holds = Holds(held.asked_ns, held.taken_ns, held.released_ns)
        found[pool] = [holds]
        if not holds.crowded and pool not in ends_seen:
            unseen_ends[pool] = held
    for pool, holds in _held_to_the_end(spans, unseen_ends, first_ns, last_ns):
        found[pool].append(holds)
    # Most senders say nothing, and reading what they say took 4 ms of a page of one trace.
    said = any(row[4] for row in rows)
    kept_all = not said or spans.rows(_MOST, first_ns=first_ns, last_ns=last_ns)[0][0] == 1
    return kept_all, found


def _held(taken: Sequence[Integers], used: Sequence[Integers]) -> _Held:
    """A checkout's connection is in use until the last query under the same parent before another checkout there.

    Both with trace, parent, span, start and end.
    """
    trace, parent, span, start_ns, end_ns = taken
    _, used_parent, _, used_start_ns, used_end_ns = used
    # A query that starts as a checkout ends belongs to it.
    order = np.lexsort(
        (
            np.repeat((0, 1), (len(parent), len(used_parent))),
            np.append(end_ns, used_start_ns),
            np.append(parent, used_parent),
        )
    )
    latest = np.maximum.accumulate(np.where(order < len(parent), np.arange(len(order)), -1))
    uses = np.flatnonzero((order >= len(parent)) & (latest >= 0))
    use, checkout = order[uses] - len(parent), order[latest[uses]]
    same = used_parent[use] == parent[checkout]
    released_ns = np.zeros(len(parent), dtype=np.int64)
    np.maximum.at(released_ns, checkout[same], used_end_ns[use[same]])
    # A connection counts as one of the pool's from when its opening begins.
    taken_ns = np.where(np.isin(span, used_parent), start_ns, end_ns)
    known = released_ns > 0
    return _Held(trace[known], start_ns[known], taken_ns[known], released_ns[known])


def _held_to_the_end(
    spans: Spans, held: Mapping[Pool, _Held], first_ns: int, last_ns: int
) -> Iterator[tuple[Pool, Holds]]:
    """Without the driver's ROLLBACK and COMMIT a connection may be held until its request ends."""
    if not held:
        return
    services = sorted({service for service, _, _ in held})
    rows = spans.arrays(_REQUESTS, services=services, first_ns=first_ns - _LONGEST_REQUEST_NS, last_ns=last_ns)
    requests = {service: columns for service, *columns in rows}
    for pool, one in held.items():
        ends = one.released_ns.copy()
        if pool[0] in requests:
            trace, start_ns, end_ns = requests[pool[0]]
            order = np.argsort(trace, kind="stable")
            first, last = (np.searchsorted(trace[order], one.trace, side) for side in ("left", "right"))
            for at in np.flatnonzero(last > first):
                mine = order[first[at] : last[at]]
                mine = mine[start_ns[mine] <= one.asked_ns[at]]
                ends[at] = max(ends[at], end_ns[mine].max(initial=0))
        yield pool, Holds(one.asked_ns, one.taken_ns, ends)
