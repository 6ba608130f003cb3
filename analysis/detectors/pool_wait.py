"""Detector: requests that wait for a connection of a pool."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from analysis.detector import AT_LEAST, HIGH, MEDIUM, Detector, Group, Occurrence, Verdict
from analysis.node import Node
from analysis.reports import Fix
from analysis.retime import Edit
from analysis.semantics import OperationClass
from analysis.wording import duration_text, share_text

CHECKOUT_NS = 1_000_000
"""What a checkout may take when a connection is free; SQLAlchemy's took 0.1 to 0.9 ms."""
HAND_OFF_NS = 30_000_000
"""From a request's last query to its connection's return: ROLLBACK and the pool's reset took up to 25 ms."""
SLACK_NS = 3_000_000
"""Ends of spans in one process were seen up to 3 ms out of order."""
SPREAD_NS = 10_000_000_000
"""Connections opened when a process starts all wait at once; waits over more than 10 s are no such thing."""

_USES_CONNECTION = (OperationClass.DATABASE, OperationClass.DATABASE_SESSION)


class PoolWait(Detector):
    """Requests wait for a free connection because the pool has too few of them or they are held too long.

    ## What it finds
    SQLAlchemy `connect` spans (a checkout of its pool) that take at least `min_wait_ms` without opening a connection,
    or that end in a pool timeout.

    ## Why it matters
    The query is fast and the database idle while requests stand in line inside the application. The wait grows without
    bound as soon as connections are needed faster than they come back.

    ## Example
        orders  GET /orders/{id}         0..300
          orders  checkout               2..210 pool
          orders  SELECT 1             211..290 db

    ## How to fix
    Hold connections shorter first: no remote call and no computation between checkout and return. Then give the pool
    as many connections as requests need at once, within what the database allows over all processes, and set
    `pool_timeout` below the caller's patience.

    ## Fixed
        orders  GET /orders/{id}         0..92
          orders  checkout               2..3 pool
          orders  SELECT 1              3..82 db
    """

    @dataclass(frozen=True)
    class Settings:
        min_wait_ms: float = field(
            default=50.0,
            metadata={"help": "A checkout shorter than this is no wait (opening takes 15 to 130 ms)."},
        )
        min_requests: int = field(default=3, metadata={"help": "Sampled requests that wait before it counts."})

    settings: Settings
    across_endpoints = True

    def occurrences(self, request: Node) -> Iterator[Occurrence]:
        for node in request.own_nodes():
            if node.span.operation_class != OperationClass.POOL or not node.awaited:
                continue
            timed_out = node.span.outcome == "timeout"
            opens = any(child.span.operation_class in _USES_CONNECTION for child in node.children)
            if timed_out or (not opens and node.duration_ns >= self.settings.min_wait_ms * 1e6):
                yield Occurrence(
                    operation=f"pool of {node.span.peer or 'database'}",
                    offenders=(node,),
                    edit=Edit(durations_ns={node.span.span_id: min(node.duration_ns, CHECKOUT_NS)}),
                    cost_ns=node.duration_ns,
                    note=f"{'gave up after' if timed_out else 'waited'} {duration_text(node.duration_ns)}",
                    facts={"wait": node.duration_ns, "timeout": float(timed_out)},
                )

    def verdict(self, group: Group) -> Verdict | None:
        timeouts = sum(int(flag) for flag in group.facts("timeout"))
        if group.requests < self.settings.min_requests and not timeouts:
            return None
        handed = _handed_over(group)
        waits = [occurrence.offenders[0] for _, occurrence in group.found]
        spread_ns = max(node.end_ns for node in waits) - min(node.end_ns for node in waits)
        if not timeouts and handed < 0.3 and spread_ns < SPREAD_NS:
            return None
        wait = group.facts("wait")
        database = group.operation.removeprefix("pool of ")
        return Verdict(
            title=f"Stop requests of {group.service} waiting for connections to {database}",
            message=(
                f"{share_text(group.share)} of the requests to {group.where} wait "
                f"{duration_text(self.settings.min_wait_ms * 1e6)} or longer for a connection, "
                f"{duration_text(wait[len(wait) // 2])} in the median of those and {duration_text(wait[-1])} at most"
                + (f"; {timeouts} gave up waiting (a timeout of the pool, not of the database)" if timeouts else "")
                + ". Their queries are not what takes the time."
            ),
            confidence=HIGH if timeouts or (handed >= 0.5 and group.requests >= 10) else MEDIUM,
            confidence_reason=(
                "Checkouts ended in the pool's own timeout."
                if timeouts
                else f"{share_text(handed)} of the waits end just when another request gives its connection back."
                if handed
                else "The waits come back over time, so they are not connections being opened at start-up."
            ),
            assumption="Checkouts take at most 1 ms. Requests that wait less also free their connection sooner.",
            fix=_FIX,
            bound=AT_LEAST,
        )


def _handed_over(group: Group) -> float:
    """Share of the waits during which others of the process held connections and that one of them ended by letting go.

    Others are the sampled requests of the service: where the sample is thin this share is too low, never too high.
    """
    held: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for request in (request for sample in group.samples for request in sample.requests):
        own = list(request.root.own_nodes())
        used = [node.end_ns for node in own if node.span.operation_class in _USES_CONNECTION]
        taken = [node.end_ns for node in own if node.span.operation_class == OperationClass.POOL]
        if used and taken:
            held[request.root.span.instance].append((min(taken), max(used), id(request)))
    handed = 0
    for request, occurrence in group.found:
        wait = occurrence.offenders[0]
        others = [
            (taken_ns, released_ns)
            for taken_ns, released_ns, holder in held[request.root.span.instance]
            if holder != id(request) and taken_ns < wait.end_ns and released_ns > wait.start_ns
        ]
        let_go = any(wait.end_ns - HAND_OFF_NS <= released_ns <= wait.end_ns + SLACK_NS for _, released_ns in others)
        handed += let_go and _covered_ns(wait, others) >= wait.duration_ns / 2
    return handed / len(group.found)


def _covered_ns(wait: Node, others: list[tuple[int, int]]) -> int:
    covered, edge = 0, wait.start_ns
    for start_ns, end_ns in sorted(others):
        start_ns, end_ns = max(start_ns, edge), min(end_ns, wait.end_ns)
        if end_ns > start_ns:
            covered += end_ns - start_ns
            edge = end_ns
    return covered


_FIX = Fix(
    title="Free connections sooner, then allow more of them",
    steps=(
        "Look at what happens between the checkout and the last query: move remote calls and computation out of it.",
        "Set pool_size to the number of requests that need a connection at the same time; processes × (pool_size + "
        "max_overflow) must stay below the database's max_connections.",
        "Set pool_timeout to what the caller can wait for, so that the rest fails fast instead of standing in line.",
    ),
    before="""engine = create_async_engine(url)  # pool_size 5, max_overflow 10, pool_timeout 30 s

async with AsyncSession(engine) as session:
    order = await session.get(Order, order_id)
    price = await client.get(f"/prices/{order.sku}")  # holds the connection meanwhile
""",
    after="""engine = create_async_engine(url, pool_size=20, max_overflow=0, pool_timeout=1.0)

async with AsyncSession(engine, expire_on_commit=False) as session:
    order = await session.get(Order, order_id)
price = await client.get(f"/prices/{order.sku}")  # the connection is back in the pool
""",
    language="python",
)
