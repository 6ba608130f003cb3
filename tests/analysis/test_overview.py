"""Edges, what is left out, notes on the data, and the list of traces."""

from __future__ import annotations

import pytest

from analysis.overview import overview
from analysis.search import TraceFilter, trace_list
from analysis.sketch import EPOCH_NS
from analysis.span import Kind
from app.otlp.attributes import AttributeValue
from tests.stored import MS, Drawn, sketched_batch, stored

SHOP = """
gateway  GET /cart                       0..100
  stock  POST /reserve                   10..60
  gateway  SELECT 1 WHERE id = $1        61..70 db
  gateway  GET http://pay.example/charge    71..90 http
"""


def test_edges() -> None:
    with stored([sketched_batch([SHOP, SHOP.replace("10..60", "10..60 status=503")])]) as spans:
        report = overview(spans)
    edges = {(edge.caller, edge.callee): edge for edge in report.edges}
    assert set(edges) == {("gateway", "stock"), ("gateway", "postgresql app"), ("gateway", "remote")}
    stock = edges["gateway", "stock"]
    assert (stock.calls, stock.errors, stock.total_ns) == (2, 1, 100 * MS)
    assert report.request_count == 4
    assert report.trace_count == 2
    assert report.error_count == 1
    assert report.notes == ()
    assert [(row.service, row.endpoint, row.count) for row in report.endpoints] == [
        ("gateway", "GET /cart", 2),
        ("stock", "POST /reserve", 2),
    ]


def test_an_address_that_answers_elsewhere_is_that_service() -> None:
    drawn = Drawn()
    http: dict[str, AttributeValue] = {"http.request.method": "GET", "url.full": "http://stock:80/x"}
    for trace in (1, 2):
        root = drawn.add("gateway", "GET /", 0, 100, kind=Kind.SERVER, trace=trace)
        call = drawn.add(
            "gateway", "GET", 1, 50, parent=root, trace=trace, error="ReadError" if trace == 2 else "", attributes=http
        )
        if trace == 1:
            drawn.add("stock", "GET /x", 2, 49, kind=Kind.SERVER, parent=call, remote=True, trace=trace)
    with stored([drawn.batch()]) as spans:
        (edge,) = overview(spans).edges
    assert (edge.caller, edge.callee, edge.calls, edge.errors) == ("gateway", "stock", 2, 1)


def test_driver_spans_are_not_counted_again() -> None:
    drawn = Drawn()
    root = drawn.add("gateway", "GET /", 0, 100, kind=Kind.SERVER)
    query: dict[str, AttributeValue] = {
        "db.system.name": "postgresql",
        "db.namespace": "shop",
        "db.query.text": "select 1 where id = $1",
    }
    begin: dict[str, AttributeValue] = {"db.system.name": "postgresql", "db.query.text": "BEGIN;"}
    drawn.add(
        "gateway", "select", 10, 20, parent=root, scope="opentelemetry.instrumentation.sqlalchemy", attributes=query
    )
    drawn.add("gateway", "select", 11, 20, parent=root, scope="opentelemetry.instrumentation.asyncpg", attributes=query)
    drawn.add("gateway", "BEGIN;", 9, 10, parent=root, attributes=begin)
    with stored([drawn.batch()]) as spans:
        (edge,) = overview(spans).edges
    assert (edge.callee, edge.calls, edge.total_ns) == ("postgresql shop", 1, 10 * MS)


def test_notes_on_the_data() -> None:
    drawn = Drawn()
    drawn.add("stock", "GET /x", 0, 5, kind=Kind.SERVER, parent=99, remote=True)
    drawn.add("stock", "GET /x", 10, 15, kind=Kind.SERVER, parent=98, remote=True, trace=2)
    drawn.add("worker", "step", 10, 15, kind=Kind.INTERNAL, parent=97, trace=3)
    drawn.add("unknown_service:python", "GET /y", 20, 25, kind=Kind.SERVER, trace=4)
    with stored([drawn.batch()]) as spans:
        notes = overview(spans).notes
        later = overview(spans, now_ns=EPOCH_NS + 3_600 * 10**9).notes
        earlier = overview(spans, now_ns=EPOCH_NS - 3_600 * 10**9).notes
    assert notes == later
    assert notes[0].startswith("2 requests of stock in 2 traces name a remote parent that was not received")
    assert "between" not in notes[0]
    assert notes[1].startswith("1 span of worker in 1 trace name")
    assert "OTEL_SERVICE_NAME" in notes[2]
    assert [note for note in earlier if "future" in note and "3,600 s" in note]


def test_trace_list_filters_and_pages() -> None:
    drawn = Drawn()
    for number in range(10):
        endpoint = f"GET /{number % 2}"
        root = drawn.add(
            "shop",
            endpoint,
            number * 100,
            number * 100 + 10 + number,
            kind=Kind.SERVER,
            trace=number + 1,
            error="ValueError" if number == 3 else "",
        )
        drawn.add("shop", "work", number * 100, number * 100 + 1, kind=Kind.INTERNAL, parent=root, trace=number + 1)
    with stored([drawn.batch()]) as spans:
        first = trace_list(spans, TraceFilter(), limit=4)
        second = trace_list(spans, TraceFilter(), limit=4, offset=4)
        newest = trace_list(spans, TraceFilter(order="newest", endpoint="GET /1"), limit=2)
        failed = trace_list(spans, TraceFilter(errors_only=True))
        between = trace_list(spans, TraceFilter(min_duration_ns=12 * MS, max_duration_ns=14 * MS))
        nothing = trace_list(spans, TraceFilter(service="nobody'; drop table all_spans; --"))
    assert [row.duration_ns // MS for row in (*first.rows, *second.rows)] == [19, 18, 17, 16, 15, 14, 13, 12]
    assert first.matched == second.matched == 10
    assert [row.duration_ns // MS for row in newest.rows] == [19, 17]
    assert newest.matched == 5
    assert [(row.error_type, row.outcome, row.span_count) for row in failed.rows] == [("ValueError", "error", 2)]
    assert [row.duration_ns // MS for row in between.rows] == [14, 13, 12]
    assert (nothing.rows, nothing.matched) == ((), 0)
    assert nothing.services == ("shop",)
    assert nothing.endpoints == (("shop", "GET /0"), ("shop", "GET /1"))
    assert len(first.rows[0].trace_id) == 32


def test_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="'fastest' is not one of newest, slowest"):
        TraceFilter(order="fastest")
