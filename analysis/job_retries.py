"""Jobs that ran more than once: retries of Celery, taskiq and arq, and messages that a broker delivered again.

Runs are counted, not the numbers that libraries write: taskiq has raised its number already on the failing run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from analysis.attempts import Attempt, RetriedCall, error_name
from analysis.broker_waits import MESSAGE_NAME
from analysis.span import Spans

# A message id may be used again by a later message, so it only counts within a trace; without a producer above it
# (Celery with span links) each run begins a trace of its own, and the id is all there is.
_RUNS = f"""
    select run.trace_id, run.service, {MESSAGE_NAME.format("run")} as name, run.peer, run.endpoint,
           case when coalesce(nullif(run.message_id, ''), nullif(publish.message_id, '')) is not null
                then coalesce(nullif(run.message_id, ''), publish.message_id) || ':'
                     || case when publish.span_id is null then '' else run.trace_id::varchar end
                when publish.span_id is not null then run.trace_id::varchar || ':' || publish.span_id::varchar
                else run.trace_id::varchar || '.' || run.span_id::varchar end as job,
           run.start_ns, run.duration_ns, run.span_id, run.outcome, run.error_type, run.attempt,
           coalesce(publish.service, '') as publisher, coalesce(publish.span_id, 0) as publish_span_id
    from spans as run
    left join trace_spans as publish on publish.trace_id = run.trace_id
      and publish.span_id = run.parent_span_id and publish.operation_class = 'producer'
    where run.operation_class = 'consumer'
"""  # noqa: S608 - texts of this package only


class _Run(NamedTuple):
    service: str
    name: str
    peer: str
    job: str
    start_ns: int
    duration_ns: int
    span_id: int
    trace_id: str
    outcome: str
    error_type: str
    attempt: int
    publisher: str
    publish_span_id: int
    endpoint: str


@dataclass(frozen=True)
class JobCount:
    """All jobs of one task: how many, their runs, and the runs that failed."""

    jobs: int
    runs: int
    failed_runs: int


def job_retries(spans: Spans) -> list[RetriedCall]:
    """Jobs and messages with more than one run."""
    rows = spans.rows(
        f"""
        select service, name, peer, job, start_ns, duration_ns, span_id, replace(trace_id::varchar, '-', '') as trace,
               outcome, error_type, attempt, publisher, publish_span_id, endpoint
        from (
            select runs.*, count(*) over (partition by service, name, peer, job) as times from ({_RUNS}) as runs
        ) as counted
        where times > 1
        order by service, name, peer, job, start_ns, span_id
        """  # noqa: S608 - texts of this package only
    )
    groups = groupby((_Run._make(row) for row in rows), key=lambda run: run[:4])
    return [_retried_job(list(runs)) for _, runs in groups]


def _retried_job(runs: list[_Run]) -> RetriedCall:
    first = runs[0]
    attempts = []
    for run, following in zip(runs, [*runs[1:], None], strict=True):
        error = error_name(run.outcome, run.error_type, 0)
        if following is not None and run.outcome == "ok":
            error = _why_again(run, following)
        elif error == "error":
            error = "retry" if following is not None else "failed"
        attempts.append(Attempt(run.start_ns, run.duration_ns, following is not None or run.outcome != "ok", error))
    return RetriedCall(
        kind="job",
        caller=first.publisher,
        callee=first.service,
        operation=first.name,
        scope_name="",
        trace_id=first.trace_id,
        span_id=first.span_id,
        unanswered=0,
        unanswered_failed=0,
        attempts=tuple(attempts),
    )


def _why_again(run: _Run, following: _Run) -> str:
    """A run that left no mark of failure: delivered again by the broker, or sent again by the library."""
    same_message = run.publish_span_id == following.publish_span_id and run.attempt == following.attempt
    return "delivered again, no error recorded" if same_message else "retry"


def job_counts(spans: Spans) -> dict[tuple[str, str], JobCount]:
    """All jobs by (service, task or destination), retried or not."""
    rows = spans.rows(
        f"""
        select service, name, count(distinct job) as jobs, count(*) as n,
               sum(case when outcome = 'ok' then 0 else 1 end) as failed
        from ({_RUNS}) as runs
        group by service, name
        order by service, name
        """  # noqa: S608 - texts of this package only
    )
    return {(service, name): JobCount(int(jobs), int(n), int(failed)) for service, name, jobs, n, failed in rows}


def publishers(calls: list[RetriedCall]) -> str:
    """Who publishes a task: the service of most first runs."""
    return Counter(call.caller for call in calls).most_common(1)[0][0]
