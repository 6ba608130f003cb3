"""Waits for a database connection: SQLAlchemy's `connect` spans, whose duration is waiting plus opening.

Opening is told from waiting by three signs. A checkout with driver spans below it opens the first connection of its
engine. A checkout that ends just after another request gave a connection back was handed that one. And a process
opens no more connections than it ever uses at once: more hand-overs than that cannot be openings.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

from analysis.reports import QueueRow
from analysis.span import Spans
from analysis.waits import Key, wait_rows

# The event loop runs the waiter some milliseconds after the connection came back; 25 ms was the most seen under load.
_HAND_OVER_NS = 25_000_000
# Shorter hand-overs are scheduling noise of a busy loop.
_WORTH_NS = 20_000_000

_LIMIT = re.compile(r"QueuePool limit of size (\d+) overflow (-?\d+) reached, connection timed out, timeout ([\d.]+)")

# Pools whose processes can be crowded, numbered: joins and sorts by a number took half the time of three texts.
_SUSPECTS = """
    select row_number() over (order by service, instance, peer) as pool, service, instance, peer
    from spans where operation_class = 'pool'
    group by service, instance, peer
    having max(duration_ns) >= $worth_ns or max(case when outcome = 'timeout' then 1 else 0 end) = 1
"""

_HELD = """
    with checkouts as (
        select trace_id, span_id, parent_span_id, pool, start_ns, duration_ns,
               start_ns + duration_ns as end_ns, outcome, status_message,
               lead(nullif(start_ns, -1)) over (
                   partition by trace_id, parent_span_id, pool order by start_ns, span_id
               ) as next_ns
        from spans
        join suspects using (service, instance, peer)
        where operation_class = 'pool'
    ),
    setups as (
        select distinct child.trace_id, child.parent_span_id as span_id
        from spans as child
        join checkouts on checkouts.trace_id = child.trace_id and checkouts.span_id = child.parent_span_id
    ),
    holds as (
        select checkouts.trace_id, checkouts.span_id, max(used.start_ns + used.duration_ns) as release_ns
        from checkouts
        join spans as used
          on used.trace_id = checkouts.trace_id and used.parent_span_id = checkouts.parent_span_id
          and used.operation_class in ('database', 'database_session') and used.start_ns >= checkouts.end_ns
          and used.start_ns < coalesce(nullif(checkouts.next_ns, 0), used.start_ns + 1)
        where checkouts.outcome = 'ok'
        group by checkouts.trace_id, checkouts.span_id
    )
    select checkouts.*, coalesce(holds.release_ns, checkouts.end_ns) as release_ns,
           case when setups.span_id is not null then 'opening'
                when checkouts.outcome = 'timeout' then 'timeout'
                when checkouts.duration_ns <= 1000000 then 'free'
                else '' end as known
    from checkouts
    left join holds on holds.trace_id = checkouts.trace_id and holds.span_id = checkouts.span_id
    left join setups on setups.trace_id = checkouts.trace_id and setups.span_id = checkouts.span_id
"""

_JUDGED = """
    select held.*, known as verdict from held where known <> ''
    union all
    select held.*,
           case when before.release_ns >= held.end_ns - $hand_over_ns
                 and (before.trace_id <> held.trace_id or before.parent_span_id <> held.parent_span_id)
                then 'handed'
                else 'opening' end as verdict
    from (select * from held where known = '') as held
    asof left join (select pool, release_ns, trace_id, parent_span_id from held where release_ns > end_ns) as before
      on before.pool = held.pool and before.release_ns <= held.end_ns
"""

_PEAKS = """
    select pool, max(in_use) as peak from (
        select pool, sum(step) over (partition by pool order by at_ns, step rows unbounded preceding) as in_use
        from (
            select pool, end_ns as at_ns, 1 as step from held where outcome = 'ok'
            union all
            select pool, release_ns as at_ns, -1 as step from held where outcome = 'ok'
        ) as steps
    ) as sweep
    group by pool
"""

_WAITS = """
    select trace_id, span_id, parent_span_id, service as first, peer as second, duration_ns as value_ns,
           case when verdict = 'timeout' then 1 else 0 end as failed, start_ns as arrival_ns, 0 as work_ns
    from judged
    join suspects using (pool)
    where verdict <> 'opening' and pool in (select unnest($crowded))
"""


def pool_rows(spans: Spans) -> list[QueueRow]:
    """One row for each service and database whose checkouts waited for one another, or gave up."""
    spans.keep("suspects", _SUSPECTS, worth_ns=_WORTH_NS)
    if not spans.rows("select count(*) as n from suspects order by n")[0][0]:
        return []
    spans.keep("held", _HELD)
    spans.keep("judged", _JUDGED, hand_over_ns=_HAND_OVER_NS)
    pools = _crowded_pools(spans)
    if not pools:
        return []
    notes: defaultdict[Key, list[str]] = defaultdict(list)
    confidences: dict[Key, str] = {}
    for key, processes in pools.items():
        peak = max(process.peak for process in processes)
        openings = sum(process.openings for process in processes)
        opening_ns = max(process.opening_ns for process in processes)
        timeouts = sum(process.timeouts for process in processes)
        driver = any(process.driver for process in processes)
        message = max(process.message for process in processes)
        found = _LIMIT.search(message)
        confidences[key] = "derived" if driver else "inferred"
        if found:
            size, overflow, timeout = found.groups()
            notes[key].append(
                f"Pool size {size}, overflow {overflow}, time-out {float(timeout):g} s, as the error says. {timeouts} "
                f"checkout{'s' if timeouts != 1 else ''} gave up: a time-out of the pool, not of the database."
            )
        elif timeouts:
            notes[key].append(f"{timeouts} checkouts gave up: a time-out of the pool, not of the database.")
        if peak:
            notes[key].append(f"At most {peak} connection{'s' if peak != 1 else ''} of a process in use at once.")
        if openings:
            notes[key].append(
                f"{openings} checkout{'s' if openings != 1 else ''} took up to {opening_ns / 1e6:.0f} ms without a "
                "hand-over: opening a connection, or a busy event loop. Not counted."
            )
        notes[key].append(
            "A checkout counts as a wait where it ends just after another request gave its connection back"
            + (", as the driver's spans show." if driver else "; without driver spans that moment is only estimated.")
        )
    rows = wait_rows(
        spans,
        _WAITS,
        kind="pool",
        confidence="derived",
        parameters={"crowded": [process.pool for processes in pools.values() for process in processes]},
        notes=notes,
    )
    return [replace(row, confidence=confidences[row.service, row.name]) for row in rows]


class _Process(NamedTuple):
    """One process's pool that made requests wait: the columns of the query below after service and peer."""

    pool: int
    peak: int
    openings: int
    opening_ns: int
    timeouts: int
    message: str
    driver: int


def _crowded_pools(spans: Spans) -> dict[Key, list[_Process]]:
    """Pools by (service, database) whose processes saw more hand-overs than connections in use, or time-outs."""
    rows = spans.rows(
        f"""
        select suspects.service, suspects.peer, pool, coalesce(max(peaks.peak), 0) as peak,
               sum(case when verdict = 'opening' and duration_ns > 1000000 then 1 else 0 end) as openings,
               max(case when verdict = 'opening' then duration_ns else 0 end) as opening_ns,
               sum(case when verdict = 'timeout' then 1 else 0 end) as timeouts,
               max(case when verdict = 'timeout' then status_message else '' end) as message,
               max(case when drivers.service is null then 0 else 1 end) as driver
        from judged
        join suspects using (pool)
        left join ({_PEAKS}) as peaks using (pool)
        left join (
            select distinct service from spans
            where operation_class = 'database_session' and scope_name <> 'opentelemetry.instrumentation.sqlalchemy'
        ) as drivers on drivers.service = suspects.service
        group by suspects.service, suspects.peer, suspects.instance, pool
        having sum(case when verdict = 'handed' and duration_ns >= $worth_ns then 1 else 0 end)
                 > coalesce(max(peaks.peak), 0)
            or sum(case when verdict = 'timeout' then 1 else 0 end) > 0
        order by suspects.service, suspects.peer, suspects.instance
        """,  # noqa: S608 - texts of this package only
        worth_ns=_WORTH_NS,
    )
    pools: dict[Key, list[_Process]] = {}
    for service, peer, *rest in rows:
        pools.setdefault((service, peer), []).append(_Process._make(rest))
    return pools
