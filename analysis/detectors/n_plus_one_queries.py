"""Detector: the same query once for each row."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median, median_high

from analysis.detector import HIGH, MEDIUM, Detector, Group, Occurrence, Verdict
from analysis.node import Node
from analysis.reports import Fix
from analysis.retime import Edit
from analysis.semantics import OperationClass
from analysis.wording import duration_text

_SQL_TABLE = re.compile(r"\bfrom\s+[\"`]?([\w.]+)", re.IGNORECASE)
_SQL_WRITE = re.compile(
    r"\s*(?:insert\s+into|replace\s+into|merge\s+into|update|delete\s+from)\s+[\"`]?([\w.]+)", re.IGNORECASE
)
_CACHE_READ = re.compile(
    r"(?:M?GET|GETRANGE|H(?:M?GET|GETALL|EXISTS|LEN|KEYS|VALS)|EXISTS|P?TTL|TYPE|STRLEN|L(?:RANGE|INDEX|LEN)|"
    r"S(?:MEMBERS|ISMEMBER|CARD)|Z(?:RANGE|SCORE|CARD))\b",
    re.IGNORECASE,
)
_SCOPE = "opentelemetry.instrumentation."


class NPlusOneQueries(Detector):
    """A request asks the database the same question once for each row instead of once for all of them.

    ## What it finds
    At least `min_calls` queries of one normalised statement (or cache command), one after another under one span, none
    of them failed. Copies of a query by the driver under SQLAlchemy, transaction control and pipelines do not count;
    neither do the polls of a Redis lock.

    ## Why it matters
    Each query pays a round trip, the driver and the ORM again. The number of rows decides the latency, so that large
    customers are the slow tail.

    ## Example
        orders  GET /orders/{id}                                0..60
          orders  SELECT * FROM orders WHERE id = $1            2..6 db
          orders  SELECT * FROM items WHERE order_id = $1      8..16 db
          orders  SELECT * FROM items WHERE order_id = $1     17..25 db
          orders  SELECT * FROM items WHERE order_id = $1     26..34 db
          orders  SELECT * FROM items WHERE order_id = $1     35..43 db
          orders  SELECT * FROM items WHERE order_id = $1     44..52 db

    ## How to fix
    Ask for all rows at once: an eager load (`selectinload`) in SQLAlchemy, `= any($1)` with a list in SQL, `MGET` or a
    pipeline in Redis.

    ## Fixed
        orders  GET /orders/{id}                                0..28
          orders  SELECT * FROM orders WHERE id = $1            2..6 db
          orders  SELECT * FROM items WHERE order_id = any($1)  8..18 db
    """

    @dataclass(frozen=True)
    class Settings:
        min_calls: int = field(
            default=5, metadata={"help": "Equal queries in a row before it counts (Sentry's N+1 rule has 5 too)."}
        )
        min_total_ms: float = field(
            default=2.0,
            metadata={"help": "Time of all of them in the median request below which it is noise."},
        )

    settings: Settings

    def occurrences(self, request: Node) -> Iterator[Occurrence]:
        for parent in request.own_nodes():
            by_query: dict[str, list[Node]] = defaultdict(list)
            for child in parent.waited_for():
                if child.span.operation_class in (OperationClass.DATABASE, OperationClass.CACHE):
                    by_query[child.span.operation].append(child)
            if _is_lock_poll(by_query):
                continue
            for operation, queries in by_query.items():
                for run in _runs(queries):
                    if len(run) >= self.settings.min_calls:
                        yield _occurrence(operation, run)

    def verdict(self, group: Group) -> Verdict | None:
        median_cost_ns = median(occurrence.cost_ns for _, occurrence in group.found)
        if median_cost_ns < self.settings.min_total_ms * 1e6:
            return None
        median_cost = duration_text(median_cost_ns)
        counts = group.facts("count")
        typical, most = median_high(counts), counts[-1]
        proven = group.facts("literals")[-1] > 1
        varies = len(counts) >= 10 and most >= 1.5 * counts[0]
        if proven:
            reason = "the literal values in the statements differ, so each is about another row"
        elif varies:
            reason = f"the number of queries varies with the request, from {counts[0]:.0f} to {most:.0f}"
        else:
            reason = "parameters are not recorded, so it may also be the same row again and again"
            reason += "" if _writes(group) else "; then cache it"
        writes = _writes(group)
        if group.facts("cache")[0]:
            title = f"{'Write' if writes else 'Fetch'} the keys in one round trip instead of {typical:.0f}"
        else:
            table = (_SQL_WRITE if writes else _SQL_TABLE).search(group.operation)
            what = f"rows of {table.group(1)}" if table else "rows"
            title = (
                f"Write the {what} with one statement instead of {typical:.0f}"
                if writes
                else f"Fetch the {what} with one query instead of {typical:.0f}"
            )
        return Verdict(
            title=title,
            message=(
                f"{group.where} sends “{group.operation}” {typical:.0f} times in a row in the "
                f"median request that does it, at most {most:.0f} times; that takes {median_cost}."
            ),
            confidence=HIGH if proven or varies else MEDIUM,
            confidence_reason=reason[0].upper() + reason[1:] + ".",
            assumption="One query that takes as long as the slowest of them; time between the queries stays.",
            fix=_fix(group),
        )


def _runs(queries: list[Node]) -> Iterator[list[Node]]:
    run = [queries[0]]
    for before, after in pairwise(queries):
        if after.start_ns < before.end_ns - 1_000_000 or after.span.failed or before.span.failed:
            yield run
            run = []
        run.append(after)
    yield run


def _is_lock_poll(by_query: dict[str, list[Node]]) -> bool:
    """Redis locks poll with SET and release with EVALSHA or EVAL (rule W3): a wait, not a loop over rows."""
    commands = {operation.split(" ", 1)[0].upper() for operation in by_query}
    return "SET" in commands and bool(commands & {"EVALSHA", "EVAL"})


def _occurrence(operation: str, run: list[Node]) -> Occurrence:
    slowest_ns = max(query.duration_ns for query in run)
    durations = {query.span.span_id: 0 for query in run[1:]}
    durations[run[0].span.span_id] = min(run[0].duration_ns, slowest_ns)
    total_ns = sum(query.duration_ns for query in run)
    literals = {query.span.target_hash for query in run if query.span.target_hash}
    return Occurrence(
        operation=operation,
        offenders=tuple(run),
        edit=Edit(durations_ns=durations),
        cost_ns=total_ns,
        note=f"{len(run)} queries in a row, {duration_text(total_ns)} together",
        facts={
            "count": len(run),
            "literals": len(literals),
            "cache": float(run[0].span.operation_class == OperationClass.CACHE),
        },
    )


def _writes(group: Group) -> bool:
    """Whether the operation changes data: what it needs is a batch, not an eager load."""
    if group.facts("cache")[0]:
        return _CACHE_READ.match(group.operation) is None
    return _SQL_WRITE.match(group.operation) is not None


def _fix(group: Group) -> Fix:
    scope = next((scope.removeprefix(_SCOPE) for scope in group.scopes if scope.startswith(_SCOPE)), "")
    writes = _writes(group)
    snippets = _WRITE_SNIPPETS if writes else _SNIPPETS
    before, after, steps = snippets.get(scope, snippets["redis" if group.facts("cache")[0] else "sql"])
    return Fix(
        title=f"{'Write' if writes else 'Load'} all rows in one round trip",
        steps=(*steps, "Check that the number of queries in a request no longer grows with its rows."),
        before=before,
        after=after,
        language="python",
    )


_WRITE_SNIPPETS = {
    "sqlalchemy": (
        """for item in items:
    await session.execute(insert(Item).values(order_id=order.id, sku=item.sku))
""",
        """await session.execute(insert(Item), [{"order_id": order.id, "sku": item.sku} for item in items])
""",
        (
            "Collect the values first.",
            "Pass all of them to one execute: SQLAlchemy sends inserts in batches. For updates and deletes, name the "
            "keys in one where clause: where(Item.id.in_(ids)).",
        ),
    ),
    "asyncpg": (
        """for order_id, sku in items:
    await connection.execute("insert into items (order_id, sku) values ($1, $2)", order_id, sku)
""",
        """await connection.executemany("insert into items (order_id, sku) values ($1, $2)", items)
""",
        ("Collect the values first.", "Pass all of them to one executemany, which sends them together."),
    ),
    "redis": (
        """for key, value in values.items():
    await client.set(key, value)
""",
        """async with client.pipeline(transaction=False) as pipeline:
    for key, value in values.items():
        pipeline.set(key, value)
    await pipeline.execute()  # one round trip
""",
        ("Put the commands into one pipeline, or use MSET, HSET with a mapping or DEL with many keys.",),
    ),
    "sql": (
        """for order_id, sku in items:
    await cursor.execute("insert into items (order_id, sku) values (%s, %s)", (order_id, sku))
""",
        """await cursor.executemany("insert into items (order_id, sku) values (%s, %s)", items)
""",
        ("Collect the values first.", "Pass all of them to one executemany, or name all keys in one where clause."),
    ),
}

_SNIPPETS = {
    "sqlalchemy": (
        """orders = (await session.scalars(select(Order).where(Order.customer_id == customer_id))).all()
for order in orders:
    items = await order.awaitable_attrs.items  # one query an order
""",
        """orders = (
    await session.scalars(
        select(Order).where(Order.customer_id == customer_id).options(selectinload(Order.items))
    )
).all()  # two queries, whatever the number of orders
""",
        (
            "Find the loop that touches a relationship, or awaits a query, for each row.",
            "Name the relationship in the first query: options(selectinload(…)); set lazy='raise' to find the others.",
        ),
    ),
    "asyncpg": (
        """for order_id in order_ids:
    rows.append(await connection.fetchrow("select * from items where order_id = $1", order_id))
""",
        """rows = await connection.fetch("select * from items where order_id = any($1::bigint[])", order_ids)
""",
        ("Collect the keys first.", "Pass them as one array and group the rows in Python."),
    ),
    "redis": (
        """values = [await client.get(key) for key in keys]
""",
        """values = await client.mget(keys)  # or a pipeline, where the commands differ
""",
        ("Collect the keys first.", "Ask for them with MGET or one pipeline."),
    ),
    "sql": (
        """for order_id in order_ids:
    await cursor.execute("select * from items where order_id = %s", (order_id,))
""",
        """await cursor.execute("select * from items where order_id = any(%s)", (order_ids,))
""",
        ("Collect the keys first.", "Ask for all of them with one statement and group the rows in Python."),
    ),
}
