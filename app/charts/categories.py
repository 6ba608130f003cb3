"""How each kind of time looks and is called, in charts, tables and waterfalls alike."""

from __future__ import annotations

from analysis.ledger import TIME_KINDS, Category, TimeKind

NAMES = {
    Category.OWN_CODE: "own code",
    Category.DATABASE: "database",
    Category.CACHE: "cache",
    Category.REMOTE_CALL: "remote call",
    Category.MESSAGING: "messaging",
    Category.EDGE_GAP: "edge gap",
    Category.QUEUE: "queue",
    Category.POOL: "pool",
    Category.LOCK: "lock, semaphore",
    Category.BLOCKED_LOOP: "blocked loop",
    Category.FAILED_ATTEMPTS: "failed attempts",
    Category.BACKOFF: "backoff",
    Category.UNACCOUNTED: "unaccounted",
}

MEANINGS = {
    Category.OWN_CODE: "The service's own Python: no child span covers it.",
    Category.DATABASE: "A query on the critical path.",
    Category.CACHE: "A cache or key-value call.",
    Category.REMOTE_CALL: "A call whose callee sends no spans.",
    Category.MESSAGING: "Publishing to a broker or queue.",
    Category.EDGE_GAP: "Between a client span and the server span it reached: network, accept queue, connecting.",
    Category.QUEUE: "Waiting in a broker or task queue.",
    Category.POOL: "Waiting for a connection out of a pool.",
    Category.LOCK: "Waiting for a lock or semaphore.",
    Category.BLOCKED_LOOP: "The event loop was busy with something else.",
    Category.FAILED_ATTEMPTS: "Attempts that failed and were made again.",
    Category.BACKOFF: "The pause between attempts.",
    Category.UNACCOUNTED: "No span says what happened.",
}

PATTERNS = {
    TimeKind.WORK: "",
    TimeKind.BETWEEN: "",
    TimeKind.WAIT: "/",
    TimeKind.WASTE: ".",
    TimeKind.UNKNOWN: "",
}


def pattern(category: Category) -> str:
    """Plotly's pattern shape: waiting is hatched, waste dotted, so that colour is never the only carrier."""
    return PATTERNS[TIME_KINDS[category]]
