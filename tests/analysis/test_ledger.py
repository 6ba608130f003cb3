"""The ledger adds up to the nanosecond for every request, and books what a person would."""

from __future__ import annotations

from hypothesis import given

from analysis.accounting import bookings, request_ledger
from analysis.ledger import Category
from analysis.span import Span
from analysis.trace import build_trace
from tests.random_traces import random_traces
from tests.sketched import drawn_trace

MS = 1_000_000


def booked(text: str) -> dict[tuple[Category, str], float]:
    trace = drawn_trace(text)
    ledger = request_ledger(trace, trace.roots[0])
    assert sum(part.duration_ns for part in ledger.slices) == ledger.duration_ns == trace.roots[0].duration_ns
    return {(part.category, part.label): part.duration_ns / MS for part in ledger.slices}


def test_a_request_through_two_services_a_pool_a_database_and_retries() -> None:
    assert booked(
        """
        gateway  GET /cart                       0..900
          stock  POST /reserve                  10..300 error
          stock  POST /reserve                 310..600 error
          stock  POST /reserve                 620..700
            stock  checkout                    630..660 pool
            stock  SELECT x WHERE id = $1      660..680 db
          gateway  GET key                     705..710 cache
          gateway  GET http://shop.example/a   720..740 http
        """
    ) == {
        (Category.OWN_CODE, "gateway"): 10 + 5 + 10 + 160,
        (Category.OWN_CODE, "stock"): 9.5 + 19.5,
        (Category.DATABASE, "stock → postgresql app: SELECT x WHERE id = ?"): 20,
        (Category.CACHE, "gateway → redis app: GET key"): 5,
        (Category.REMOTE_CALL, "gateway → GET http://shop.example/a"): 20,
        (Category.EDGE_GAP, "gateway → stock"): 1,
        (Category.POOL, "stock: pool of postgresql app"): 30,
        (Category.FAILED_ATTEMPTS, "gateway → stock"): 290 + 290,
        (Category.BACKOFF, "gateway → stock"): 10 + 20,
    }


def test_opening_a_connection_is_no_wait_for_the_pool() -> None:
    totals = booked(
        """
        orders  GET /x  0..100
          orders  checkout  10..40 pool
            orders  SELECT pg_catalog.version()  20..30 session
        """
    )
    assert totals == {
        (Category.OWN_CODE, "orders"): 70,
        (Category.DATABASE, "orders → postgresql app: opening a connection"): 20,
        (Category.DATABASE, "orders → postgresql app: SELECT pg_catalog.version()"): 10,
    }


def test_hidden_retries_under_one_client_span() -> None:
    from analysis.semantics import OperationClass, RequestClass
    from analysis.span import Kind
    from tests.random_traces import span

    server = {
        "kind": Kind.SERVER,
        "service": "b",
        "endpoint": "GET /x",
        "operation_class": OperationClass.SERVER,
        "request_class": RequestClass.REQUEST,
    }
    trace = build_trace(
        [
            span(1, 0, 0, 200 * MS),
            span(2, 1, 10 * MS, 190 * MS, kind=Kind.CLIENT, operation_class=OperationClass.HTTP),
            span(3, 2, 20 * MS, 40 * MS, outcome="error", **server),
            span(4, 2, 50 * MS, 70 * MS, outcome="error", **server),
            span(5, 2, 170 * MS, 185 * MS, **server),
        ]
    )
    totals = {part.category: part.duration_ns / MS for part in request_ledger(trace, trace.roots[0]).slices}
    assert totals[Category.FAILED_ATTEMPTS] == 40
    assert totals[Category.BACKOFF] == 110
    assert totals[Category.EDGE_GAP] == 15


def test_time_under_spans_that_were_not_received_is_unaccounted() -> None:
    from tests.random_traces import span

    trace = build_trace([span(1, 0, 0, 100), span(7, 6, 40, 90)])
    totals = {part.category: part.duration_ns for part in request_ledger(trace, trace.nodes[1]).slices}
    assert totals == {Category.OWN_CODE: 50, Category.UNACCOUNTED: 50}


def test_a_driver_under_sqlalchemy_is_counted_once() -> None:
    from analysis.semantics import OperationClass
    from analysis.span import Kind
    from tests.random_traces import span

    database = {"kind": Kind.CLIENT, "operation_class": OperationClass.DATABASE, "operation": "select ?"}
    trace = build_trace(
        [
            span(1, 0, 0, 100 * MS),
            span(2, 1, 10 * MS, 50 * MS, scope_name="opentelemetry.instrumentation.sqlalchemy", **database),
            span(3, 1, 12 * MS, 51 * MS, scope_name="opentelemetry.instrumentation.asyncpg", **database),
        ]
    )
    assert trace.nodes[3].driver_copy
    totals = {part.category: part.duration_ns / MS for part in request_ledger(trace, trace.roots[0]).slices}
    assert totals == {Category.OWN_CODE: 60, Category.DATABASE: 40}


@given(random_traces(max_spans=20))
def test_adds_up_for_every_request_of_any_trace(spans: list[Span]) -> None:
    trace = build_trace(spans)
    for node in trace.walk():
        if not node.is_entry:
            continue
        ledger = request_ledger(trace, node)
        assert sum(part.duration_ns for part in ledger.slices) == node.duration_ns
        assert all(part.duration_ns > 0 for part in ledger.slices)
        cursor = node.start_ns
        for booking in bookings(trace, node):
            assert booking.start_ns == cursor
            cursor = booking.end_ns
        assert cursor == node.end_ns


@given(random_traces(max_spans=15))
def test_relabelled_ids_change_nothing(spans: list[Span]) -> None:
    def shifted(identifier: int) -> int:
        return identifier + 1000 if identifier else 0

    renamed = [
        s._replace(trace_id=f"{2:032x}", span_id=shifted(s.span_id), parent_span_id=shifted(s.parent_span_id))
        for s in spans
    ]
    for one, other in zip(build_trace(spans).roots, build_trace(renamed).roots, strict=True):
        first = [(p.category, p.label, p.duration_ns) for p in request_ledger(build_trace(spans), one).slices]
        second = [(p.category, p.label, p.duration_ns) for p in request_ledger(build_trace(renamed), other).slices]
        assert first == second


def test_long_statements_are_cut_where_one_can_see_it() -> None:
    totals = booked(f"a  GET /x  0..10\n  a  SELECT {'column_name, ' * 30}1  2..8 db")
    label = next(label for category, label in totals if category == Category.DATABASE)
    assert len(label) <= 120
    assert label.endswith("…")
