"""Attempts of one call: sibling client spans of which all but the last failed, and server spans under one client span.

Candidates come from SQL over all spans (calls of which at least one failed, client spans with several server
children); which of them belong together is decided here, one trace at a time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

from analysis.attempt_rules import SQLALCHEMY, Answer, Covering, are_attempts, follows_failure, looks_like_loop
from analysis.span import Spans


@dataclass(frozen=True)
class Attempt:
    """One try; `error` says what a failed one ended with, in the shortest telling form."""

    start_ns: int
    duration_ns: int
    failed: bool
    error: str

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.duration_ns


@dataclass(frozen=True)
class RetriedCall:
    """One logical call that took more than one attempt."""

    kind: str
    """`visible`, `hidden` or `job`, as in `analysis.reports.RetryEdge`."""
    caller: str
    callee: str
    operation: str
    scope_name: str
    trace_id: str
    span_id: int
    """The first attempt's client span, or the client span around hidden attempts, or the first run of a job."""
    unanswered: int
    """Attempts without a span of the callee, though another attempt has one; and how many of them failed."""
    unanswered_failed: int
    attempts: tuple[Attempt, ...]

    @property
    def recovered(self) -> bool:
        return not self.attempts[-1].failed

    @property
    def wasted_ns(self) -> int:
        return sum(attempt.duration_ns for attempt in self.attempts if attempt.failed)

    def gaps_ns(self) -> list[int]:
        """Time between one attempt and the next: backoff, or for jobs countdown and queue."""
        return [max(0, after.start_ns - before.end_ns) for before, after in pairwise(self.attempts)]


class _Call(NamedTuple):
    """One client span that may be an attempt; the fields are the columns of the query below, in this order."""

    trace_id: str
    service: str
    operation: str
    target_hash: int
    start_ns: int
    span_id: int
    parent_span_id: int
    duration_ns: int
    outcome: str
    error_type: str
    http_status: int
    operation_class: str
    scope_name: str
    peer: str
    callee: str
    callee_endpoint: str
    wrapper: str
    grandparent_id: int

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.duration_ns

    @property
    def failed(self) -> bool:
        return self.outcome != "ok"


_VISIBLE = """
    with failed as (
        select distinct trace_id, service, operation, target_hash from spans
        where kind = 3 and outcome <> 'ok' and operation_class in ('http', 'rpc', 'database', 'cache')
          and request_class <> 'housekeeping' and error_type not like '%NoScript%'
    ),
    calls as (
        select spans.*, count(*) over (
                   partition by spans.trace_id, spans.service, spans.operation, spans.target_hash
               ) as alike
        from spans
        join failed on failed.trace_id = spans.trace_id and failed.service = spans.service
          and failed.operation = spans.operation and failed.target_hash = spans.target_hash
        where spans.kind = 3
    ),
    answers as (
        select calls.trace_id, calls.span_id, min(server.service) as service, min(server.endpoint) as endpoint
        from calls
        join spans as server on server.trace_id = calls.trace_id and server.parent_span_id = calls.span_id
        where server.kind = 2 and server.service <> calls.service
        group by calls.trace_id, calls.span_id
    )
    select replace(calls.trace_id::varchar, '-', '') as trace, calls.service, calls.operation, calls.target_hash,
           calls.start_ns, calls.span_id, calls.parent_span_id, calls.duration_ns, calls.outcome, calls.error_type,
           calls.http_status, calls.operation_class, calls.scope_name, calls.peer,
           coalesce(answers.service, '') as callee, coalesce(answers.endpoint, '') as callee_endpoint,
           coalesce(wrapper.name, '') as wrapper, coalesce(wrapper.parent_span_id, 0) as grandparent_id
    from calls
    left join answers on answers.trace_id = calls.trace_id and answers.span_id = calls.span_id
    left join spans as wrapper on wrapper.trace_id = calls.trace_id and wrapper.span_id = calls.parent_span_id
      and wrapper.kind = 1 and wrapper.operation_class = 'internal' and wrapper.parent_span_id <> 0
    where calls.alike > 1
    order by calls.trace_id, calls.service, calls.operation, calls.target_hash, calls.start_ns, calls.span_id
"""


def visible_retries(spans: Spans) -> list[RetriedCall]:
    """Sequential client spans of one target, under one parent or a wrapper each, of which all but the last failed."""
    rows = (_Call._make(row) for row in spans.rows(_VISIBLE))
    found: list[RetriedCall] = []
    for _, alike in groupby(rows, key=lambda call: call[:4]):
        found += (_retried_call(chain) for chain in _logical_calls(list(alike)) if len(chain) > 1)
    return found


def _logical_calls(calls: Sequence[_Call]) -> Iterator[list[_Call]]:
    by_parent: defaultdict[int, list[_Call]] = defaultdict(list)
    for call in _without_driver_duplicates(calls):
        by_parent[call.parent_span_id].append(call)
    wrapped: defaultdict[tuple[str, int], list[list[_Call]]] = defaultdict(list)
    for siblings in by_parent.values():
        chains = list(_chains([call] for call in siblings))
        first = siblings[0]
        if first.wrapper and len(chains) == 1:
            wrapped[first.wrapper, first.grandparent_id].append(chains[0])
        elif not _looks_like_loop(chains):
            yield from chains
    for parts in wrapped.values():
        parts.sort(key=lambda chain: (chain[0].start_ns, chain[0].span_id))
        merged = list(_chains(parts))
        # One wrapper each for attempts of one call, or for the items of a loop: a loop goes on after a success.
        yield from merged if len(merged) == 1 else parts


def _chains(parts: Iterable[list[_Call]]) -> Iterator[list[_Call]]:
    chain: list[_Call] = []
    for part in parts:
        if chain and not _retries(chain[-1], part[0]):
            yield chain
            chain = []
        chain.extend(part)
    if chain:
        yield chain


def _retries(before: _Call, after: _Call) -> bool:
    return follows_failure(before.failed, before.end_ns, after.start_ns)


def _looks_like_loop(chains: Sequence[list[_Call]]) -> bool:
    first = chains[0][0]
    return looks_like_loop(len(chains), first.target_hash, first.operation_class)


def _without_driver_duplicates(calls: Sequence[_Call]) -> list[_Call]:
    outer: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for call in calls:
        if call.scope_name == SQLALCHEMY:
            outer[call.parent_span_id].append((call.start_ns, call.end_ns))
    covering = {parent: Covering(times) for parent, times in outer.items()}
    return [
        call
        for call in calls
        if call.scope_name == SQLALCHEMY
        or call.parent_span_id not in covering
        or not covering[call.parent_span_id].covers(call.start_ns, call.end_ns)
    ]


def _retried_call(chain: Sequence[_Call]) -> RetriedCall:
    answered = next((call for call in chain if call.callee), None)
    first = chain[0]
    return RetriedCall(
        kind="visible",
        caller=first.service,
        callee=answered.callee if answered else first.peer or first.operation_class,
        operation=answered.callee_endpoint if answered else first.operation,
        scope_name=first.scope_name,
        trace_id=first.trace_id,
        span_id=first.span_id,
        unanswered=sum(not call.callee for call in chain),
        unanswered_failed=sum(call.failed and not call.callee for call in chain),
        attempts=tuple(
            Attempt(
                call.start_ns,
                call.duration_ns,
                call.failed,
                error_name(call.outcome, call.error_type, call.http_status),
            )
            for call in chain
        ),
    )


def error_name(outcome: str, error_type: str, http_status: int) -> str:
    """What an attempt ended with: the HTTP status where there is one, else the error's type, else the outcome."""
    if outcome == "ok":
        return ""
    return str(http_status) if http_status >= 400 else error_type or outcome


_HIDDEN = """
    with several as (
        select trace_id, parent_span_id from spans
        where kind = 2 and operation_class = 'server' and parent_span_id <> 0
        group by trace_id, parent_span_id
        having count(*) > 1
    )
    select replace(client.trace_id::varchar, '-', '') as trace, client.span_id, client.service, client.operation,
           client.scope_name, server.service as callee, server.endpoint, server.start_ns, server.duration_ns,
           server.outcome, server.error_type, server.http_status
    from several
    join spans as client on client.trace_id = several.trace_id and client.span_id = several.parent_span_id
    join spans as server on server.trace_id = several.trace_id and server.parent_span_id = several.parent_span_id
    where client.kind = 3 and client.operation_class in ('http', 'rpc')
      and server.kind = 2 and server.operation_class = 'server' and server.service <> client.service
    order by client.trace_id, client.span_id, server.start_ns, server.span_id
"""


class _Answer(NamedTuple):
    """One server span under a client span that has several; the fields are the columns of the query above."""

    trace_id: str
    span_id: int
    caller: str
    client_operation: str
    scope_name: str
    callee: str
    endpoint: str
    start_ns: int
    duration_ns: int
    outcome: str
    error_type: str
    http_status: int

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.duration_ns


def hidden_retries(spans: Spans) -> tuple[list[RetriedCall], Counter[tuple[str, str, str]]]:
    """Client spans that stand for several attempts; and redirects by (caller, operation, status codes)."""
    found: list[RetriedCall] = []
    redirects: Counter[tuple[str, str, str]] = Counter()
    rows = (_Answer._make(row) for row in spans.rows(_HIDDEN))
    for _, group in groupby(rows, key=lambda answer: answer[:2]):
        answers = list(group)
        if len(answers) < 2:
            continue
        first = answers[0]
        if any(300 <= answer.http_status < 400 for answer in answers):
            codes = ", ".join(str(answer.http_status) for answer in answers)
            redirects[first.caller, first.client_operation, codes] += 1
        elif _repeats(answers):
            found.append(_hidden_call(answers))
    return found, redirects


def _repeats(answers: Sequence[_Answer]) -> bool:
    return are_attempts(
        [
            Answer(answer.callee, answer.endpoint, answer.outcome != "ok", answer.start_ns, answer.end_ns)
            for answer in answers
        ]
    )


def _hidden_call(answers: Sequence[_Answer]) -> RetriedCall:
    first, last = answers[0], answers[-1]
    attempts = [
        Attempt(
            answer.start_ns,
            answer.duration_ns,
            answer.outcome != "ok" or answer is not last,
            error_name(answer.outcome, answer.error_type, answer.http_status) or ("" if answer is last else "given up"),
        )
        for answer in answers
    ]
    return RetriedCall(
        kind="hidden",
        caller=first.caller,
        callee=first.callee,
        operation=first.endpoint,
        scope_name=first.scope_name,
        trace_id=first.trace_id,
        span_id=first.span_id,
        unanswered=0,
        unanswered_failed=0,
        attempts=tuple(attempts),
    )
