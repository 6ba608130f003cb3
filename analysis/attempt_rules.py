"""What makes calls attempts of one another: rules that single traces and SQL's candidates are judged by alike."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from analysis.semantics import OperationClass

SQLALCHEMY = "opentelemetry.instrumentation.sqlalchemy"
SEQUENTIAL_SLACK_NS = 1_000_000
"""Ends and starts of sequential awaits are taken microseconds apart; a loaded loop was seen to swap them by 1 ms."""
LONGEST_BACKOFF_NS = 60_000_000_000
"""A call that comes later than a minute after a failure is one of its own."""
DRIVER_SLACK_NS = 2_000_000
"""SQLAlchemy's span of a statement ends up to 2 ms before the driver's where the loop is busy."""
MIN_LOOP = 3

RETRYABLE = frozenset({OperationClass.HTTP, OperationClass.RPC, OperationClass.DATABASE, OperationClass.CACHE})
_VALUES_UNKNOWN = (OperationClass.DATABASE, OperationClass.CACHE)


def follows_failure(failed: bool, end_ns: int, next_start_ns: int) -> bool:
    """Whether a call that began at next_start_ns may be another attempt of the one that ended before."""
    return failed and -SEQUENTIAL_SLACK_NS <= next_start_ns - end_ns <= LONGEST_BACKOFF_NS


def looks_like_loop(chains: int, target_hash: int, operation_class: str) -> bool:
    """Three or more calls whose values nobody recorded: the one after a failure is as likely the next item."""
    return chains >= MIN_LOOP and (target_hash == 0 or operation_class in _VALUES_UNKNOWN)


def _given_up(start_ns: int, end_ns: int, next_start_ns: int) -> bool:
    """Whether a callee still worked for a client that had gone on to the next attempt already."""
    return end_ns > next_start_ns + SEQUENTIAL_SLACK_NS and next_start_ns - start_ns > SEQUENTIAL_SLACK_NS


class Answer(NamedTuple):
    """What the rule for hidden attempts needs of one of several server spans under one client span."""

    callee: str
    endpoint: str
    failed: bool
    start_ns: int
    end_ns: int


def are_attempts(answers: Sequence[Answer]) -> bool:
    """Whether each answer but the last failed or was given up, and all are of one endpoint: no fan-out of a proxy."""
    if len(answers) < 2 or len({(answer.callee, answer.endpoint) for answer in answers}) > 1:
        return False
    return all(
        follows_failure(before.failed, before.end_ns, after.start_ns)
        or _given_up(before.start_ns, before.end_ns, after.start_ns)
        for before, after in pairwise(answers)
    )


class Covering:
    """Times of SQLAlchemy's spans of one statement: do they cover a driver's span of it? n log n for n of each."""

    def __init__(self, times: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(times)
        self._starts = [start_ns for start_ns, _ in ordered]
        self._latest_ends = list(accumulate((end_ns for _, end_ns in ordered), max))

    def covers(self, start_ns: int, end_ns: int) -> bool:
        """Whether one of them began no later and ended no more than the slack before."""
        before = bisect_right(self._starts, start_ns)
        return before > 0 and end_ns <= self._latest_ends[before - 1] + DRIVER_SLACK_NS
