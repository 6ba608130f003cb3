"""Checkouts of a pool: waits for a connection told from connections that are opened."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest

from analysis.checkouts import HAND_OFF_NS, SLACK_NS, Holds
from analysis.fixes import fixes
from analysis.ledger import Category
from analysis.node import Node
from analysis.sample import linked_traces
from analysis.span import Kind, Spans
from analysis.tail import endpoint_report
from analysis.trace_view import trace_report
from tests.captures import capture
from tests.stored import MS, Drawn, sketched_batch, stored

OPENING_MS = 40


class Checkout(NamedTuple):
    """One request of a simulated process: what its checkout did, and what its query took."""

    arrival_ms: float
    checkout_ms: float
    query_ms: float
    opens: bool


def pooled(arrivals: Sequence[tuple[float, float]], size: int, return_ms: float = 1) -> list[Checkout]:
    """First come, first served over `size` connections that are opened as they are first needed."""
    free: list[float] = []
    opened = 0
    found = []
    for arrival_ms, query_ms in arrivals:
        if free and free[0] <= arrival_ms:
            heapq.heappop(free)
            checkout_ms, opens = 0.3, False
        elif opened < size:
            opened += 1
            checkout_ms, opens = OPENING_MS, True
        else:
            checkout_ms, opens = heapq.heappop(free) - arrival_ms + 0.3, False
        heapq.heappush(free, arrival_ms + checkout_ms + 0.5 + query_ms + return_ms)
        found.append(Checkout(arrival_ms, checkout_ms, query_ms, opens))
    return found


def poisson_arrivals(rng: random.Random, per_s: float, count: int) -> list[tuple[float, float]]:
    """With queries of 30 to 90 ms."""
    at, arrivals = 0.0, []
    for _ in range(count):
        at += rng.expovariate(per_s / 1000)
        arrivals.append((at, rng.uniform(30, 90)))
    return arrivals


def drawn(checkouts: Sequence[Checkout]) -> list[str]:
    texts = []
    for at, checkout_ms, query_ms, _ in checkouts:
        taken, ended = at + checkout_ms, at + checkout_ms + 0.5 + query_ms
        texts.append(f"""
        orders  GET /orders  {at:.3f}..{ended + 1:.3f}
          orders  checkout  {at:.3f}..{taken:.3f} pool
          orders  SELECT 1  {taken + 0.5:.3f}..{ended:.3f} db
        """)
    return texts


def checkouts_of(spans: Spans, traces: int) -> list[Node]:
    linked = linked_traces(spans, [f"{number + 1:032x}" for number in range(traces)])
    return [node for trace in linked.values() for node in trace.walk() if node.span.operation_class == "pool"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("size", "per_s", "return_ms"), [(1, 12, 1), (2, 25, 20), (5, 70, 1), (5, 60, 5), (20, 300, 5)]
)
def test_simulated_pools(seed: int, size: int, per_s: float, return_ms: float) -> None:
    """Of the time that opening took hardly any is called waiting, and hardly any waiting opening."""
    simulated = pooled(poisson_arrivals(random.Random(seed), per_s, 400), size, return_ms)
    with stored([sketched_batch(drawn(simulated), apart_ns=0)]) as spans:
        found = [node.opens_connection for node in checkouts_of(spans, len(simulated))]
    said_ms: dict[tuple[bool, bool], float] = defaultdict(float)
    for said, true in zip(found, simulated, strict=True):
        said_ms[true.opens, said is True] += true.checkout_ms
    assert said_ms[False, True] <= 0.01 * said_ms[False, False]
    assert said_ms[True, False] <= max(0.2 * said_ms[True, True], OPENING_MS)
    assert said_ms[False, False] > 1000


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("per_s", [5, 60, 400])
def test_a_connection_for_each_request_is_no_pool_that_is_full(seed: int, per_s: float) -> None:
    """As with SQLAlchemy's NullPool: others let go by chance all the time, but as many are in use as are asked for."""
    arrivals = poisson_arrivals(random.Random(seed), per_s, 1000)
    simulated = [Checkout(at, OPENING_MS + query_ms / 2, query_ms, opens=True) for at, query_ms in arrivals]
    with stored([sketched_batch(drawn(simulated), apart_ns=0)]) as spans:
        assert all(node.opens_connection for node in checkouts_of(spans, len(simulated)))
        assert not fixes(spans).findings


def opened_again_and_again(times: int) -> list[Checkout]:
    """Connections that are not kept, such as those beyond a pool's size: nobody waits."""
    return [Checkout(number * 500.0, OPENING_MS + 20, 30, opens=True) for number in range(times)]


def test_connections_that_are_opened_are_no_waits_in_ledger_fixes_and_trace() -> None:
    with stored([sketched_batch(drawn(opened_again_and_again(60)), apart_ns=0)]) as spans:
        ledger = endpoint_report(spans, "orders", "GET /orders").ledger
        findings = fixes(spans).findings
        trace = trace_report(spans, f"{7:032x}")
    assert "orders → postgresql app: opening a connection" in [row.label for row in ledger]
    assert not [row for row in ledger if row.category == Category.POOL]
    assert not findings
    [checkout] = [row for row in trace.rows if row.name == "connect"]
    assert checkout.category == Category.DATABASE
    assert any("opens a connection" in note for note in checkout.notes)


def test_waits_of_a_crowded_pool_are_a_finding() -> None:
    simulated = pooled([(number * 55.0, 50.0 + 10 * (number % 3)) for number in range(80)], size=1)
    with stored([sketched_batch(drawn(simulated), apart_ns=0)]) as spans:
        ledger = endpoint_report(spans, "orders", "GET /orders").ledger
        findings = fixes(spans).findings
    assert ledger[0].category == Category.POOL
    [finding] = [finding for finding in findings if finding.detector == "pool-wait"]
    assert finding.confidence == "high"
    assert finding.affected_requests == sum(one.checkout_ms >= 50 and not one.opens for one in simulated)


def test_a_connection_held_after_its_last_query_is_waited_for() -> None:
    """A pool of one; each request queries for 30 ms and keeps the connection while it calls another service."""
    texts = []
    free_ms = 0.0
    for number in range(60):
        at = number * 130.0
        taken = max(at, free_ms) + 0.3
        free_ms = taken + 230 if number % 3 == 0 else taken + 60
        texts.append(f"""
        orders  GET /orders  {at:.3f}..{free_ms:.3f}
          orders  checkout  {at:.3f}..{taken:.3f} pool
          orders  SELECT 1  {taken + 0.5:.3f}..{taken + 30:.3f} db
          orders  GET http://tax/rate  {taken + 31:.3f}..{free_ms - 1:.3f} http
        """)
    with stored([sketched_batch(texts, apart_ns=0)]) as spans:
        found = [node for node in checkouts_of(spans, 60) if node.duration_ns > 10 * MS]
    assert len(found) >= 20
    assert all(node.opens_connection is False for node in found)


def test_where_only_a_share_is_kept_nobody_says_which_it_was() -> None:
    drawn_waits = Drawn()
    kept = pooled([(number * 55.0, 50.0 + 10 * (number % 3)) for number in range(400)], size=1)[::10]
    for number, (at, checkout_ms, query_ms, _) in enumerate(kept, start=1):
        ended = at + checkout_ms + query_ms
        request = drawn_waits.add("orders", "GET /orders", at, ended + 1, kind=Kind.SERVER, trace=number)
        sql = {"db.system.name": "postgresql", "db.namespace": "app"}
        scope = "opentelemetry.instrumentation.sqlalchemy"
        for name, begin, end in (("connect", at, at + checkout_ms), ("SELECT", at + checkout_ms + 0.5, ended)):
            drawn_waits.add("orders", name, begin, end, parent=request, trace=number, scope=scope, attributes=sql)
    for _, _, _, record in drawn_waits.records:
        record.trace_state = "ot=th:e6666666666666"
    with stored([drawn_waits.batch()]) as spans:
        nodes = [node for node in checkouts_of(spans, len(kept)) if node.duration_ns > 10 * MS]
        findings = fixes(spans).findings
    assert nodes
    assert all(node.opens_connection is None for node in nodes)
    assert all("not every request is kept" in note for node in nodes for note in node.notes)
    [finding] = [finding for finding in findings if finding.detector == "pool-wait"]
    assert finding.confidence == "low"
    assert "may open a connection" in finding.confidence_reason


@pytest.mark.parametrize("mode", ["new", "old"])
def test_recorded_openings(mode: str) -> None:
    """SQLite's one checkout and the second of /sa_one opened connections; those of /tx_idle and /sa_slow waited."""
    with capture("07_db_pool", mode) as spans:
        found = {
            endpoint: {row.label: row.category for row in endpoint_report(spans, "dbapp", endpoint).ledger}
            for endpoint in ("GET /lite", "GET /sa_one", "GET /tx_idle", "GET /sa_slow")
        }
    for endpoint, label in (("GET /lite", "sqlite /srv/trace/lite.db"), ("GET /sa_one", "postgresql shop")):
        assert Category.POOL not in found[endpoint].values()
        assert f"dbapp → {label}: opening a connection" in found[endpoint]
    for endpoint in ("GET /tx_idle", "GET /sa_slow"):
        assert found[endpoint]["dbapp: pool of postgresql shop"] == Category.POOL


def slowly_handed_over(held: Sequence[tuple[int, int]], start_ms: int, end_ms: int) -> bool:
    """The rule, millisecond by millisecond."""
    let_go = any(
        taken < end_ms and end_ms - HAND_OFF_NS // MS <= released <= end_ms + SLACK_NS // MS for taken, released in held
    )
    in_use = [sum(taken <= at < released for taken, released in held) for at in range(400)]
    all_taken = max(in_use[max(0, start_ms - HAND_OFF_NS // MS) : end_ms]) == max(in_use)
    return let_go and all_taken and 2 * sum(map(bool, in_use[start_ms:end_ms])) >= end_ms - start_ms


def test_hand_overs_agree_with_the_rule_word_by_word() -> None:
    """Times of whole milliseconds; fewer than seven connections, so that none may be on its way."""
    rng = random.Random(5)
    seen = set()
    for _ in range(600):
        taken = [rng.randint(0, 300) for _ in range(rng.randint(1, 6))]
        held = [(at, at + rng.randint(1, 80)) for at in taken]
        start_ms, duration_ms = rng.randint(0, 250), rng.randint(2, 120)
        taken_ns, released_ns = np.array(held, dtype=np.int64).T * MS
        said = Holds(taken_ns, taken_ns, released_ns).handed_over(start_ms * MS, (start_ms + duration_ms) * MS)
        assert said == slowly_handed_over(held, start_ms, start_ms + duration_ms), (held, start_ms, duration_ms)
        seen.add(said)
    assert seen == {True, False}
