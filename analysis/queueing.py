"""Where requests wait: brokers and task queues, connection pools, and in front of the application."""

from __future__ import annotations

from analysis.broker_waits import broker_rows, never_run
from analysis.front_waits import front_advice, front_rows
from analysis.pool_waits import pool_rows
from analysis.reports import QueuesReport
from analysis.span import Spans


def queue_waits(spans: Spans) -> QueuesReport:
    """Every place where spans show requests waiting, and what they cannot show with the setting that would."""
    rows = [*broker_rows(spans), *pool_rows(spans), *front_rows(spans)]
    rows.sort(key=lambda row: (-row.total_ns, row.kind, row.service, row.name))
    return QueuesReport(
        rows=tuple(rows),
        never_run=never_run(spans),
        notes=(*_unlinked_consumers(spans), *front_advice(spans)),
    )


# Root spans of one name that follow one another within 5 ms are the runs of a worker that never had to wait for work.
_NO_PAUSE_NS = 5_000_000


def _unlinked_consumers(spans: Spans) -> list[str]:
    """In-process queues: root spans one after another, without a pause, in a process that also serves requests."""
    rows = spans.rows(
        """
        select runs.service, runs.name, count(*) as n
        from (
            select service, instance, name, start_ns,
                   max(start_ns + duration_ns) over (
                       partition by service, instance, name order by start_ns, span_id
                       rows between unbounded preceding and 1 preceding
                   ) as previous_end_ns
            from spans
            where kind = 1 and parent_span_id = 0 and operation_class = 'internal'
        ) as runs
        join (
            select distinct service, instance from spans where operation_class = 'server'
        ) as servers on servers.service = runs.service and servers.instance = runs.instance
        group by runs.service, runs.instance, runs.name
        having count(*) >= 3
           and sum(case when nullif(previous_end_ns, 0) > start_ns then 1 else 0 end) = 0
           and sum(case when start_ns - nullif(previous_end_ns, 0) <= $no_pause_ns then 1 else 0 end) * 2 >= count(*)
        order by n desc, runs.service, runs.name
        limit 20
        """,
        no_pause_ns=_NO_PAUSE_NS,
    )
    return [
        f"{service}: {count} runs of {name} follow one another without a pause and belong to no request. That is what "
        f"a saturated asyncio.Queue with one consumer looks like, but how long a job waited cannot be told: pass the "
        f"context along (queue.put((job, trace.get_current_span().get_span_context()))) and start the run with "
        f'tracer.start_as_current_span("{name}", links=[trace.Link(context)]).'
        for service, name, count in rows
    ]
