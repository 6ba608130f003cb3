"""Which spans are attempts of one call: visible ones side by side, hidden ones under one client span.

Rules R1 and R2 of what Python instrumentation shows: no instrumentation sets `http.request.resend_count`, so attempts
are read from structure. Polling, pagination and N+1 are told apart by their outcome: all attempts but the last failed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from analysis.attempt_rules import (
    RETRYABLE,
    SEQUENTIAL_SLACK_NS,
    Answer,
    are_attempts,
    follows_failure,
    looks_like_loop,
)
from analysis.node import Node
from analysis.semantics import OperationClass
from analysis.span import Kind

_RETRYABLE = RETRYABLE | {OperationClass.POOL}


@dataclass(frozen=True)
class AttemptGroup:
    """Attempts of one logical call in order; all but the last failed, and the last too where it is exhausted."""

    parent: Node
    attempts: tuple[Node, ...]
    hidden: bool

    @property
    def exhausted(self) -> bool:
        return self.attempts[-1].span.failed

    @property
    def failed(self) -> tuple[Node, ...]:
        return self.attempts if self.exhausted else self.attempts[:-1]

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """(start_ns, end_ns) between one attempt and the next; empty where they touch."""
        return tuple((before.end_ns, max(before.end_ns, after.start_ns)) for before, after in pairwise(self.attempts))

    @property
    def callee(self) -> str:
        """Service that answered, else address or operation that was called."""
        for attempt in self.attempts:
            if self.hidden:
                return attempt.span.service
            for child in attempt.children:
                if child.span.kind == Kind.SERVER:
                    return child.span.service
        return self.attempts[0].span.peer or self.attempts[0].span.operation


def attempt_groups(parent: Node) -> list[AttemptGroup]:
    """Retried calls directly under a span, in start order; calls that were made once are not in it."""
    if len(parent.children) < 2:
        return []
    if parent.span.kind == Kind.CLIENT:
        return _hidden(parent)
    if all(child.span.outcome == "ok" for child in parent.children):
        return []
    by_call: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for child in parent.children:
        span = child.span
        if span.kind == Kind.CLIENT and span.operation_class in _RETRYABLE and not child.driver_copy:
            by_call[span.service, span.operation].append(child)
    groups = [group for calls in by_call.values() if len(calls) > 1 for group in _visible(parent, calls)]
    return sorted(groups, key=lambda group: group.attempts[0].start_ns)


def _visible(parent: Node, calls: list[Node]) -> list[AttemptGroup]:
    groups = []
    current = [calls[0]]
    for call in calls[1:]:
        if _retries(current[-1], call):
            current.append(call)
            continue
        groups.append(current)
        current = [call]
    groups.append(current)
    if looks_like_loop(len(groups), calls[0].span.target_hash, calls[0].span.operation_class):
        return []
    return [AttemptGroup(parent, tuple(group), hidden=False) for group in groups if len(group) > 1]


def _retries(before: Node, after: Node) -> bool:
    if not follows_failure(before.span.failed, before.end_ns, after.start_ns):
        return False
    if before.span.operation.startswith("EVALSHA"):
        # redis-py loads a script after the first NoScriptError of a process: neither a retry nor an error.
        return False
    targets = before.span.target_hash, after.span.target_hash
    return not all(targets) or targets[0] == targets[1]


def _hidden(parent: Node) -> list[AttemptGroup]:
    servers = [
        child
        for child in parent.children
        if child.span.kind == Kind.SERVER and child.span.operation_class == OperationClass.SERVER
    ]
    if any(300 <= server.span.http_status < 400 for server in servers):
        return []
    answers = [
        Answer(server.span.service, server.span.endpoint, server.span.failed, server.start_ns, server.end_ns)
        for server in servers
    ]
    # A callee that worked on after its client had gone on outlasts the attempt that answered, and the critical path
    # runs through it: all of its time would count as waste, the answer's as none. SQL counts such calls.
    overlap = any(b.end_ns > a.start_ns + SEQUENTIAL_SLACK_NS for b, a in pairwise(answers))
    return [AttemptGroup(parent, tuple(servers), hidden=True)] if are_attempts(answers) and not overlap else []
