"""What retries cost: attempts, failed time, backoff, and which requests pay, edge by edge."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from analysis.attempts import RetriedCall, hidden_retries, visible_retries
from analysis.job_retries import job_counts, job_retries, publishers
from analysis.reports import AttemptOutcome, RetriesReport, RetryEdge
from analysis.span import MOST_EXAMINED, Spans, trace_bounds
from analysis.waits import owners
from analysis.wording import partly_text

MAX_GAPS = 200
MAX_PAYERS = 8
MAX_TRACES = 5
MAX_NOTES = 20

EdgeKey = tuple[str, str, str, str]
"""Kind, caller, callee, operation."""


def retry_costs(spans: Spans) -> RetriesReport:
    """Visible, hidden and job retries by edge, most wasted time first.

    Calls are those of a part of the window where it holds very many spans; jobs, whose runs may be hours apart, of all.
    """
    by_edge: defaultdict[EdgeKey, list[RetriedCall]] = defaultdict(list)
    for call in job_retries(spans):
        by_edge["job", "", call.callee, call.operation].append(call)
    totals = _job_totals(spans, by_edge)
    total_traces = _trace_count(spans)
    with spans.thinned(MOST_EXAMINED) as looked_at:
        hidden, redirects = hidden_retries(spans)
        called: defaultdict[EdgeKey, list[RetriedCall]] = defaultdict(list)
        for call in [*visible_retries(spans), *hidden]:
            called[call.kind, call.caller, call.callee, call.operation].append(call)
        totals |= _call_totals(spans, called)
        examined_traces = total_traces if looked_at.whole else _trace_count(spans)
    by_edge |= called
    payers = _payers(spans, [call for group in by_edge.values() for call in group])
    edges = [
        _edge(key, group, totals[key], Counter(payers.get((call.trace_id, call.span_id), ("", "")) for call in group))
        for key, group in by_edge.items()
    ]
    edges.sort(
        key=lambda edge: (-edge.wasted_ns - edge.backoff_ns, edge.kind, edge.caller, edge.callee, edge.operation)
    )
    followed = sorted(redirects.items(), key=lambda item: (-item[1], item[0]))[:MAX_NOTES]
    return RetriesReport(
        edges=tuple(edges),
        examined_traces=examined_traces,
        total_traces=total_traces,
        notes=tuple(
            f"{count} call{'s' if count != 1 else ''} of {caller} ({operation}) followed a redirect inside one client "
            f"span ({codes}): not a retry."
            for (caller, operation, codes), count in followed
        ),
        partly=partly_text("Calls, though not jobs, are", looked_at),
    )


def _trace_count(spans: Spans) -> int:
    return int(spans.rows("select count(distinct trace_id) as n from spans order by n")[0][0])


def _edge(
    key: EdgeKey, group: Sequence[RetriedCall], total: tuple[int, int], payers: Counter[tuple[str, str]]
) -> RetryEdge:
    """One edge; `total` is how many client spans (runs, for jobs) it has, retried or not, and how many failed."""
    kind, caller, callee, operation = key
    extra = sum(len(call.attempts) - 1 for call in group)
    recovered = sum(call.recovered for call in group)
    spans_seen, failed_seen = total
    if kind == "hidden":
        attempts, calls = spans_seen + extra, spans_seen
        single_failed = max(0, min(failed_seen - (len(group) - recovered), calls - len(group)))
    else:
        # Attempts that another endpoint answered are in the chains, but not among this edge's spans.
        calls = max(len(group), spans_seen - extra)
        attempts = calls + extra
        in_chains = sum(attempt.failed for call in group for attempt in call.attempts)
        single_failed = max(0, min(failed_seen - in_chains, calls - len(group)))
    errors = Counter(attempt.error for call in group for attempt in call.attempts if attempt.failed)
    gaps = _gaps_by_ordinal(group)
    paid = [(service, endpoint, n) for (service, endpoint), n in payers.items() if service or endpoint]
    slowest = sorted(group, key=lambda call: (-call.wasted_ns - sum(call.gaps_ns()), call.trace_id))
    return RetryEdge(
        caller=publishers(list(group)) if kind == "job" else caller,
        callee=callee,
        operation=operation,
        kind=kind,
        calls=calls,
        retried_calls=len(group),
        attempts=attempts,
        recovered=recovered,
        exhausted=len(group) - recovered,
        wasted_ns=sum(call.wasted_ns for call in group),
        backoff_ns=sum(sum(call.gaps_ns()) for call in group),
        by_attempt=_by_attempt(group, calls, single_failed),
        errors=tuple(sorted(errors.items(), key=lambda item: (-item[1], item[0]))),
        backoff_gaps_ns=tuple(tuple(sorted(part)[:: max(1, -(-len(part) // MAX_GAPS))]) for part in gaps),
        backoff_shape=backoff_shape(gaps),
        endpoints=tuple(sorted(paid, key=lambda row: (-row[2], row[0], row[1]))[:MAX_PAYERS]),
        trace_ids=tuple(dict.fromkeys(call.trace_id for call in slowest))[:MAX_TRACES],
    )


def _by_attempt(group: Sequence[RetriedCall], calls: int, single_failed: int) -> tuple[AttemptOutcome, ...]:
    """First attempts count all calls, retried or not; later ones only those that got so far."""
    singles = calls - len(group)
    outcomes = []
    for ordinal in range(1, max(len(call.attempts) for call in group) + 1):
        tried = [call.attempts[ordinal - 1] for call in group if len(call.attempts) >= ordinal]
        failed = sum(attempt.failed for attempt in tried) + (single_failed if ordinal == 1 else 0)
        count = len(tried) + (singles if ordinal == 1 else 0)
        outcomes.append(AttemptOutcome(ordinal, count, count - failed, failed))
    return tuple(outcomes)


def _gaps_by_ordinal(group: Sequence[RetriedCall]) -> list[list[int]]:
    gaps: list[list[int]] = [[] for _ in range(max(len(call.attempts) for call in group) - 1)]
    for call in group:
        for ordinal, gap in enumerate(call.gaps_ns()):
            gaps[ordinal].append(gap)
    return gaps


# Reconnecting and scheduling alone take up to about 5 ms between two attempts without any backoff.
_NO_BACKOFF_NS = 5_000_000
_ENOUGH_GAPS = 5
_GROWTH = 1.5
# A fixed sleep of 50 ms came out 51 to 61 ms under load: spread 0.1. Full jitter has 0.58.
_STEADY = 0.2


def backoff_shape(gaps_ns: Sequence[Sequence[int]]) -> str:
    """`none`, `constant`, `growing`, `jittered` or `unknown` (below 5 gaps), from gaps by ordinal.

    Growing: each ordinal's median is at least 1.5 times the one before (ordinals with 3 gaps or more). Constant:
    one median, and a spread (interquartile range over 1.349 medians, robust to single stalls) of at most 0.2.
    """
    flat = sorted(gap for part in gaps_ns for gap in part)
    if len(flat) < _ENOUGH_GAPS:
        return "unknown"
    if statistics.median(flat) < _NO_BACKOFF_NS:
        return "none"
    medians = [statistics.median(part) for part in gaps_ns if len(part) >= 3]
    if len(medians) >= 2 and all(b >= _GROWTH * a for a, b in pairwise(medians)):
        return "growing"
    low, middle, high = statistics.quantiles(flat, n=4, method="inclusive")
    return "constant" if (high - low) / 1.349 <= _STEADY * middle else "jittered"


def _payers(spans: Spans, calls: Sequence[RetriedCall]) -> dict[tuple[str, int], tuple[str, str]]:
    """The request (service, endpoint) around each retried call, by (trace id, span id)."""
    if not calls:
        return {}
    first_ns, last_ns = trace_bounds(
        spans, "select unnest($trace_ids)::uuid", trace_ids=list({call.trace_id for call in calls})
    )
    rows = spans.rows(
        f"""
        with recursive seeds as (
            select unnest($trace_ids)::uuid as trace_id, unnest($span_ids)::ubigint as span_id
        ), {owners("seeds")}
        select replace(trace_id::varchar, '-', '') as trace, seed_id, service, endpoint from owned
        order by trace_id, seed_id, service, endpoint
        """,  # noqa: S608 - texts of this package only
        trace_ids=[call.trace_id for call in calls],
        span_ids=[str(call.span_id) for call in calls],
        first_ns=first_ns,
        last_ns=last_ns,
    )
    return {(trace, int(span_id)): (service, endpoint) for trace, span_id, service, endpoint in rows}


def _job_totals(spans: Spans, by_edge: Mapping[EdgeKey, Sequence[RetriedCall]]) -> dict[EdgeKey, tuple[int, int]]:
    """Runs of the jobs of each edge, and how many failed."""
    counts = job_counts(spans) if by_edge else {}
    return {key: (counts[key[2], key[3]].runs, counts[key[2], key[3]].failed_runs) for key in by_edge}


def _call_totals(spans: Spans, by_edge: Mapping[EdgeKey, Sequence[RetriedCall]]) -> dict[EdgeKey, tuple[int, int]]:
    """Client spans of each edge, and how many failed."""
    totals: dict[EdgeKey, tuple[int, int]] = {}
    answered = _answered_calls(spans, list(by_edge))
    plain = _plain_calls(
        spans,
        sorted(
            {
                (call.caller, call.operation, call.scope_name)
                for group in by_edge.values()
                for call in group
                if call.kind == "visible"
            }
        ),
    )
    for key, group in by_edge.items():
        _, caller, callee, operation = key
        if (caller, callee, operation) in answered:
            count_seen, failed = answered[caller, callee, operation]
            totals[key] = (
                count_seen + sum(call.unanswered for call in group),
                failed + sum(call.unanswered_failed for call in group),
            )
        else:
            parts = [plain[caller, operation, scope] for scope in {call.scope_name for call in group}]
            totals[key] = (sum(part[0] for part in parts), sum(part[1] for part in parts))
    return totals


def _answered_calls(spans: Spans, keys: Sequence[EdgeKey]) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Client spans by (caller, callee, callee's endpoint), for callees that sent spans."""
    if not keys:
        return {}
    rows = spans.rows(
        """
        with answers as (
            select distinct trace_id, parent_span_id as span_id, service, endpoint from spans
            where kind = 2 and operation_class = 'server' and parent_span_id <> 0
              and endpoint in (select unnest($endpoints))
        )
        select client.service as caller, answers.service as callee, answers.endpoint, count(*) as n,
               sum(case when client.outcome = 'ok' then 0 else 1 end) as failed
        from answers
        join spans as client on client.trace_id = answers.trace_id and client.span_id = answers.span_id
        where client.kind = 3 and client.service <> answers.service
        group by client.service, answers.service, answers.endpoint
        order by client.service, answers.service, answers.endpoint
        """,
        endpoints=sorted({key[3] for key in keys}),
    )
    return {(caller, callee, endpoint): (int(n), int(failed)) for caller, callee, endpoint, n, failed in rows}


def _plain_calls(spans: Spans, keys: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Client spans by (caller, operation, scope): the scope keeps a driver's spans out of SQLAlchemy's."""
    if not keys:
        return {}
    rows = spans.rows(
        """
        select service, operation, scope_name, count(*) as n,
               sum(case when outcome = 'ok' then 0 else 1 end) as failed
        from spans
        where kind = 3 and operation in (select unnest($operations))
        group by service, operation, scope_name
        order by service, operation, scope_name
        """,
        operations=sorted({operation for _, operation, _ in keys}),
    )
    return {(service, operation, scope): (int(n), int(failed)) for service, operation, scope, n, failed in rows}
