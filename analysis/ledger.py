"""Where a request's time went: its duration split into categories that add up to it exactly, in nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Category(StrEnum):
    """What kind of time a slice is; the order is the order of every ledger on a page."""

    OWN_CODE = "own_code"
    DATABASE = "database"
    CACHE = "cache"
    REMOTE_CALL = "remote_call"
    MESSAGING = "messaging"
    EDGE_GAP = "edge_gap"
    QUEUE = "queue"
    POOL = "pool"
    LOCK = "lock"
    BLOCKED_LOOP = "blocked_loop"
    FAILED_ATTEMPTS = "failed_attempts"
    BACKOFF = "backoff"
    UNACCOUNTED = "unaccounted"


class TimeKind(StrEnum):
    """Cool is work, warm is waiting, magenta is waste, grey is unknown."""

    WORK = "work"
    BETWEEN = "between"
    WAIT = "wait"
    WASTE = "waste"
    UNKNOWN = "unknown"


TIME_KINDS = {
    Category.OWN_CODE: TimeKind.WORK,
    Category.DATABASE: TimeKind.WORK,
    Category.CACHE: TimeKind.WORK,
    Category.REMOTE_CALL: TimeKind.WORK,
    Category.MESSAGING: TimeKind.WORK,
    Category.EDGE_GAP: TimeKind.BETWEEN,
    Category.QUEUE: TimeKind.WAIT,
    Category.POOL: TimeKind.WAIT,
    Category.LOCK: TimeKind.WAIT,
    Category.BLOCKED_LOOP: TimeKind.WAIT,
    Category.FAILED_ATTEMPTS: TimeKind.WASTE,
    Category.BACKOFF: TimeKind.WASTE,
    Category.UNACCOUNTED: TimeKind.UNKNOWN,
}


@dataclass(frozen=True)
class Slice:
    """Time of one category on the critical path of one request."""

    category: Category
    label: str
    """Whose time: a service, `caller → callee`, a statement, a pool, a queue; or why time is unaccounted for."""
    duration_ns: int
    span_ids: tuple[int, ...]
    """The spans behind the slice, at most 50."""


@dataclass(frozen=True)
class Ledger:
    """One request's slices; `sum(slice.duration_ns) == duration_ns` always."""

    trace_id: str
    root_span_id: int
    duration_ns: int
    slices: tuple[Slice, ...]
    """By category, then longest first."""

    def by_category(self) -> dict[Category, int]:
        totals = dict.fromkeys(Category, 0)
        for part in self.slices:
            totals[part.category] += part.duration_ns
        return totals
