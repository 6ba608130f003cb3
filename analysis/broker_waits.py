"""Waits in brokers and task queues: from the moment a message could have been taken to the start of its run.

Celery, taskiq and RabbitMQ: end of the producer's span (or the ETA, if later) to start of the consumer's. arq says
itself when a job became due. A second delivery counts from the first publish, because nothing marks the requeue.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from analysis.reports import QueueRow
from analysis.span import Spans, trace_bounds
from analysis.waits import Key, owners, wait_rows

MESSAGE_NAME = """
    case when {0}.name like 'run/%' then substr({0}.name, 5)
         when {0}.name like 'execute/%' then substr({0}.name, 9)
         when {0}.name like 'apply_async/%' then substr({0}.name, 13)
         when {0}.name like 'send/%' then substr({0}.name, 6)
         when {0}.peer <> '' and ({0}.name like '% receive' or {0}.name like '% process'
              or {0}.name like '% deliver' or {0}.name like '% send' or {0}.name like '% publish') then {0}.peer
         else {0}.name end
"""

_RUNS = f"""
    select run.trace_id, run.span_id, run.parent_span_id, run.service as first, {MESSAGE_NAME.format("run")} as second,
           run.start_ns, run.duration_ns as work_ns, run.peer,
           message.trace_id as published_trace_id, message.span_id as published_span_id,
           message.start_ns as publish_start_ns, message.start_ns + message.duration_ns as publish_end_ns,
           case when run.kind = 2 and run.ready_ns > 0 then run.ready_ns
                else greatest(coalesce(message.start_ns + message.duration_ns, 0), run.ready_ns) end as from_ns
    from spans as run
    left join trace_spans as parent
      on parent.trace_id = run.trace_id and parent.span_id = run.parent_span_id
      and parent.operation_class = 'producer' and parent.start_ns between $first_ns and $last_ns
    left join span_links as link
      on link.trace_id = run.trace_id and link.span_id = run.span_id and link.span_hash = run.span_hash
      and parent.span_id is null
    left join trace_spans as message
      on message.trace_id = coalesce(parent.trace_id, link.linked_trace_id)
      and message.span_id = coalesce(parent.span_id, link.linked_span_id)
      and message.operation_class = 'producer' and message.start_ns between $first_ns and $last_ns
    where run.operation_class = 'consumer' and (message.span_id is not null or run.ready_ns > 0)
"""  # noqa: S608 - texts of this package only

_TRACES_OF_RUNS = """
    select trace_id from spans where operation_class = 'consumer'
    union
    select linked_trace_id from span_links
    semi join (select trace_id, span_id from spans where operation_class = 'consumer') as run using (trace_id, span_id)
"""

_WAITS = """
    select trace_id, span_id, parent_span_id, first, second, greatest(start_ns - from_ns, 0) as value_ns,
           0 as failed, from_ns as arrival_ns, work_ns
    from runs
"""


def broker_rows(spans: Spans) -> list[QueueRow]:
    """One row for each consuming service and task or destination."""
    if not spans.rows("select count(*) as n from spans where operation_class = 'consumer' order by n")[0][0]:
        return []
    _keep_runs(spans)
    notes: defaultdict[Key, list[str]] = defaultdict(list)
    for key, publishers in _publishers(spans).items():
        named = ", ".join(f"{service} {endpoint} ({count})" for (service, endpoint), count in publishers.most_common(3))
        notes[key].append(f"Published by {named}.")
    serial = _serial_services(spans)
    for key in _keys(spans):
        if key[0] in serial:
            notes[key].append("All runs of this service follow one another: it works on one message at a time.")
    for key, again in _redelivered(spans).items():
        notes[key].append(
            f"{again} deliver{'ies' if again != 1 else 'y'} beyond the first of a message: their waits count from the "
            "first publish, because nothing marks when a message was put back."
        )
    for key, (early, early_max_ns, impossible, impossible_max_ns) in _clamped(spans).items():
        if impossible:
            notes[key].append(
                f"{impossible} run{'s' if impossible != 1 else ''} began before the message was published, by up to "
                f"{impossible_max_ns / 1e6:.1f} ms: the clocks of the hosts differ. Counted as no wait; the other "
                f"waits may be wrong by as much."
            )
        if early > impossible:
            notes[key].append(
                f"{early - impossible} began while the producer's span was still open, at most "
                f"{early_max_ns / 1e6:.1f} ms before its end: counted as no wait."
            )
    return wait_rows(spans, _WAITS, kind="queue", confidence="measured", notes=notes)


def _keep_runs(spans: Spans) -> None:
    first_ns, last_ns = trace_bounds(spans, _TRACES_OF_RUNS)
    spans.keep("runs", _RUNS, first_ns=first_ns, last_ns=last_ns)


def wait_before(spans: Spans, service: str, endpoint: str) -> tuple[int, int] | None:
    """Median and p95 of what messages waited before this endpoint took them, in nanoseconds; None without messages."""
    _keep_runs(spans)
    median_ns, p95_ns = spans.rows(
        f"""
        select {spans.quantile("waits.value_ns", 0.5)}, {spans.quantile("waits.value_ns", 0.95)}
        from ({_WAITS}) as waits
        join requests on requests.trace_id = waits.trace_id and requests.span_id = waits.span_id
        where requests.service = $service and requests.endpoint = $endpoint
        order by 1
        """,  # noqa: S608 - texts of this package only
        service=service,
        endpoint=endpoint,
    )[0]
    return None if median_ns is None else (round(median_ns), round(p95_ns))


def _keys(spans: Spans) -> list[Key]:
    rows = spans.rows("select distinct first, second from runs order by first, second")
    return [(first, second) for first, second in rows]


def _publishers(spans: Spans) -> Mapping[Key, Counter[Key]]:
    """Which requests publish: messages by (service, endpoint), most first."""
    first_ns, last_ns = trace_bounds(spans, "select published_trace_id from runs where published_trace_id is not null")
    rows = spans.rows(
        f"""
        with recursive messages as (
            select distinct published_trace_id as trace_id, published_span_id as span_id, first, second from runs
            where published_span_id is not null
        ), {owners("messages")}
        select messages.first, messages.second, owned.service, owned.endpoint, count(*) as n
        from messages
        join owned on owned.trace_id = messages.trace_id and owned.seed_id = messages.span_id
        group by messages.first, messages.second, owned.service, owned.endpoint
        order by messages.first, messages.second, n desc, owned.service, owned.endpoint
        """,  # noqa: S608 - texts of this package only
        first_ns=first_ns,
        last_ns=last_ns,
    )
    publishers: defaultdict[Key, Counter[Key]] = defaultdict(Counter)
    for first, second, service, endpoint, count in rows:
        publishers[first, second][service, endpoint] = int(count)
    return publishers


def _clamped(spans: Spans) -> dict[Key, tuple[int, int, int, int]]:
    """Waits that came out negative: how many, the largest, and likewise those that only clocks can explain."""
    rows = spans.rows(
        """
        select first, second, count(*) as early, max(from_ns - start_ns) as early_max_ns,
               sum(case when start_ns < publish_start_ns then 1 else 0 end) as impossible,
               max(publish_start_ns - start_ns) as impossible_max_ns
        from runs
        where start_ns < from_ns
        group by first, second
        order by first, second
        """
    )
    return {(a, b): (int(n), int(most), int(bad or 0), int(worst or 0)) for a, b, n, most, bad, worst in rows}


def _redelivered(spans: Spans) -> dict[Key, int]:
    """Runs beyond the first of one published message, where nothing says when it was due again."""
    rows = spans.rows(
        """
        select first, second, sum(runs - 1) as again from (
            select first, second, published_trace_id, published_span_id, count(*) as runs
            from runs
            where published_span_id is not null and from_ns = publish_end_ns
            group by first, second, published_trace_id, published_span_id
        ) as messages
        where runs > 1
        group by first, second
        order by first, second
        """
    )
    return {(first, second): int(again) for first, second, again in rows}


def _serial_services(spans: Spans) -> set[str]:
    """Services that ran at least three messages, never two at a time."""
    rows = spans.rows(
        """
        select service, count(*) as n, sum(case when start_ns < latest_end_ns then 1 else 0 end) as overlapping
        from (
            select service, start_ns, max(start_ns + duration_ns) over (
                partition by service order by start_ns, span_id rows between unbounded preceding and 1 preceding
            ) as latest_end_ns
            from spans where operation_class = 'consumer'
        ) as runs
        group by service
        order by service
        """
    )
    return {service for service, count, overlapping in rows if count >= 3 and overlapping == 0}


def never_run(spans: Spans) -> tuple[tuple[str, str, int], ...]:
    """Messages that nobody took although others, published later on the same queue, were taken.

    The queue is the destination, or the library where a span names none. Expired, revoked, unknown to the worker and
    not yet due look alike. Where no consumer of a queue is seen at all, nothing is said: it may not be instrumented.
    """
    first_ns, last_ns = trace_bounds(spans, "select trace_id from spans where operation_class = 'producer'")
    rows = spans.rows(
        f"""
        with taken as (
            select trace_id, parent_span_id as span_id from trace_spans
            where operation_class = 'consumer' and start_ns between $first_ns and $last_ns
            union
            select linked_trace_id as trace_id, linked_span_id as span_id from span_links
        ),
        messages as (
            select message.service, {MESSAGE_NAME.format("message")} as name, message.start_ns,
                   case when message.peer <> '' then message.peer else message.scope_name end as queue,
                   taken.span_id is not null as run
            from spans as message
            left join taken on taken.trace_id = message.trace_id and taken.span_id = message.span_id
            where message.operation_class = 'producer'
        )
        select messages.service, messages.name, count(*) as n
        from messages
        join (
            select queue, max(start_ns) as last_ns from messages where run group by queue
        ) as overtaken on overtaken.queue = messages.queue and messages.start_ns < overtaken.last_ns
        where not messages.run
        group by messages.service, messages.name
        order by n desc, messages.service, messages.name
        """,  # noqa: S608 - texts of this package only
        first_ns=first_ns,
        last_ns=last_ns,
    )
    return tuple((service, name, int(count)) for service, name, count in rows)
