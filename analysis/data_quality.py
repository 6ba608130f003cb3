"""What is missing from or odd about the data itself, in sentences; none of them is a finding about a service."""

from __future__ import annotations

from analysis.span import Spans, trace_bounds

MAX_NOTES = 40
"""Names come from senders: thousands of them must not make a page of thousands of sentences."""


def data_quality_notes(spans: Spans, now_ns: int | None = None) -> tuple[str, ...]:
    """Missing parents, lost services, services without a name, and times in the future (where now_ns is given)."""
    lost = [*_lost_callers(spans), *_lost_parents(spans)] if _keep_missing(spans) else []
    notes = [*lost, *_nameless(spans)]
    if now_ns is not None:
        notes += _future(spans, now_ns)
    return tuple(notes[:MAX_NOTES])


def _keep_missing(spans: Spans) -> bool:
    """Keeps `missing`, the spans whose parent is not in the dataset; whether there are any.

    Parents are sought in the window first, by few columns: one join of whole rows with the whole dataset took 130 ms of
    400,000 spans beside 9.6 million others, and was made twice. What is left is sought among all spans of its traces.
    """
    spans.keep(
        "orphans",
        """
        select child.* from (
            select trace_id, span_id, parent_span_id, service, parent_origin, kind from spans where parent_span_id <> 0
        ) as child
        anti join (select trace_id, span_id from spans) as parent
          on parent.trace_id = child.trace_id and parent.span_id = child.parent_span_id
        """,
    )
    first_ns, last_ns = trace_bounds(spans, "select trace_id from orphans")
    spans.keep(
        "missing",
        """
        select orphans.* from orphans
        anti join (
            select trace_id, span_id from trace_spans
            where trace_id in (select trace_id from orphans) and start_ns between $first_ns and $last_ns
        ) as parent
          on parent.trace_id = orphans.trace_id and parent.span_id = orphans.parent_span_id
        """,
        first_ns=first_ns,
        last_ns=last_ns,
    )
    return bool(spans.rows("select count(*) as n from missing order by n")[0][0])


def _lost_callers(spans: Spans) -> list[str]:
    """Entry spans with a remote parent that was not received; with the caller beyond it where a trace shows one."""
    spans.keep(
        "lost",
        """
        select distinct trace_id, span_id, service from missing
        where parent_origin = 'remote' or (parent_origin = 'unknown' and kind in (2, 5))
        """,
    )
    first_ns, last_ns = trace_bounds(spans, "select trace_id from lost")
    rows = spans.rows(
        """
        with around as (
            select trace_id, span_id, parent_span_id, service, operation_class from trace_spans
            where trace_id in (select trace_id from lost) and start_ns between $first_ns and $last_ns
        ),
        unanswered as (
            select caller.trace_id, min(caller.service) as service
            from around as caller
            left join around as child
              on child.trace_id = caller.trace_id and child.parent_span_id = caller.span_id
            where child.span_id is null and caller.operation_class in ('http', 'rpc', 'producer')
            group by caller.trace_id
        )
        select lost.service, coalesce(unanswered.service, '') as beyond, count(*) as n,
               count(distinct lost.trace_id) as traces
        from lost
        left join unanswered on unanswered.trace_id = lost.trace_id and unanswered.service <> lost.service
        group by lost.service, beyond
        order by n desc, lost.service, beyond
        """,
        first_ns=first_ns,
        last_ns=last_ns,
    )
    notes = []
    for service, beyond, count, traces in rows:
        entries = f"{count} request{'s' if count != 1 else ''} of {service}"
        where = f"in {traces} trace{'s' if traces != 1 else ''}"
        if beyond:
            notes.append(
                f"Spans of a process between {beyond} and {service} are missing: {entries} {where} name a remote "
                f"parent that was not received. They are shown as requests, but they do not enter the system there."
            )
        else:
            notes.append(
                f"{entries} {where} name a remote parent that was not received: the caller does not send its spans "
                f"here, sampled them away or lost them."
            )
    return notes


def _lost_parents(spans: Spans) -> list[str]:
    """Spans whose parent in the same process was not received."""
    rows = spans.rows(
        """
        select service, count(*) as n, count(distinct trace_id) as traces,
               max(case when parent_origin = 'local' then 1 else 0 end) as local
        from missing
        where parent_origin = 'local' or (parent_origin = 'unknown' and kind not in (2, 5))
        group by service
        order by n desc, service
        """
    )
    return [
        f"{count} span{'s' if count != 1 else ''} of {service} in {traces} trace{'s' if traces != 1 else ''} "
        + ("name a parent in the same process" if local else "name a parent")
        + " that was not received: it may still be running, or was lost."
        for service, count, traces, local in rows
    ]


def _nameless(spans: Spans) -> list[str]:
    rows = spans.rows(
        """
        select service, count(*) as n from spans
        where service = '' or service like 'unknown_service%'
        group by service
        order by n desc, service
        """
    )
    return [
        f"{count} span{'s' if count != 1 else ''} came without a service name ({service or 'empty'}): "
        "set OTEL_SERVICE_NAME where they are sent."
        for service, count in rows
    ]


def _future(spans: Spans, now_ns: int) -> list[str]:
    rows = spans.rows(
        """
        select service, count(*) as n, max(start_ns) as latest_ns from spans
        where start_ns > $limit_ns
        group by service
        order by n desc, service
        """,
        # A minute of tolerance: clocks of hosts without time synchronisation differ by seconds, not by minutes.
        limit_ns=now_ns + 60_000_000_000,
    )
    return [
        f"{count} span{'s' if count != 1 else ''} of {service} start in the future, "
        f"by up to {(latest_ns - now_ns) / 1e9:,.0f} s: the clock of the sender is wrong."
        for service, count, latest_ns in rows
    ]
