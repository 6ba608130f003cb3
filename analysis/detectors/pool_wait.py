"""Detector: requests that wait for a connection of a pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from analysis.checkouts import CHECKOUT_NS
from analysis.detector import AT_LEAST, HIGH, LOW, MEDIUM, Detector, Group, Occurrence, Verdict
from analysis.node import Node
from analysis.reports import Fix
from analysis.retime import Edit
from analysis.semantics import OperationClass
from analysis.wording import duration_text, share_text


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
            if timed_out or (not node.opens_connection and node.duration_ns >= self.settings.min_wait_ms * 1e6):
                yield Occurrence(
                    operation=f"pool of {node.span.peer or 'database'}",
                    offenders=(node,),
                    edit=Edit(durations_ns={node.span.span_id: min(node.duration_ns, CHECKOUT_NS)}),
                    cost_ns=node.duration_ns,
                    note=f"{'gave up after' if timed_out else 'waited'} {duration_text(node.duration_ns)}",
                    facts={
                        "wait": node.duration_ns,
                        "timeout": float(timed_out),
                        "handed": float(node.opens_connection is False),
                    },
                )

    def verdict(self, group: Group) -> Verdict | None:
        timeouts = sum(int(flag) for flag in group.facts("timeout"))
        if group.requests < self.settings.min_requests and not timeouts:
            return None
        wait = group.facts("wait")
        handed = group.facts("handed")
        handed_share = sum(handed) / len(handed)
        database = group.operation.removeprefix("pool of ")
        return Verdict(
            title=f"Stop requests of {group.service} waiting for connections to {database}",
            message=(
                f"{share_text(group.share)} of the requests to {group.where} wait "
                f"{duration_text(self.settings.min_wait_ms * 1e6)} or longer for a connection, "
                f"{duration_text(median(wait))} in the median of those and {duration_text(wait[-1])} at most"
                + (f"; {timeouts} gave up waiting (a timeout of the pool, not of the database)" if timeouts else "")
                + ". Their queries are not what takes the time."
            ),
            confidence=(
                HIGH if timeouts or (handed_share >= 0.5 and sum(handed) >= 10) else MEDIUM if handed_share else LOW
            ),
            confidence_reason=(
                "Checkouts ended in the pool's own timeout."
                if timeouts
                else f"{share_text(handed_share)} of the waits end just as another request gives its connection back."
                if handed_share
                else "Not every request is kept, so some of these may open a connection instead."
            ),
            assumption="Checkouts take at most 1 ms. Requests that wait less also free their connection sooner.",
            fix=_FIX,
            bound=AT_LEAST,
        )


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
