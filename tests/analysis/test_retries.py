"""Retries in hand-made traces, and what only looks like one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from analysis.reports import RetriesReport, RetryEdge
from analysis.retries import backoff_shape, retry_costs
from analysis.span import Kind
from app.otlp.attributes import AttributeValue
from tests.stored import MS, Drawn, stored


def get(path: str = "/x", status: int = 200) -> dict[str, AttributeValue]:
    return {"http.request.method": "GET", "url.full": f"http://stock:80{path}", "http.response.status_code": status}


def report_of(drawn: Drawn) -> RetriesReport:
    with stored([drawn.batch()]) as spans:
        return retry_costs(spans)


def only(drawn: Drawn) -> RetryEdge:
    (edge,) = report_of(drawn).edges
    return edge


def request(drawn: Drawn, trace: int = 1, end_ms: float = 1000) -> int:
    return drawn.add("shop", "GET /cart", 0, end_ms, kind=Kind.SERVER, trace=trace)


def calls(
    drawn: Drawn,
    parent: int,
    tries: Sequence[tuple[float, float, int]],
    *,
    path: str = "/x",
    trace: int = 1,
    answer: bool = False,
) -> None:
    """Client spans with (start, end, status); with answer, each has a server span inside."""
    for start, end, status in tries:
        error = str(status) if status >= 400 else ""
        attributes = get(path, status)
        call = drawn.add("shop", "GET", start, end, parent=parent, trace=trace, error=error, attributes=attributes)
        if answer:
            route: dict[str, AttributeValue] = {
                "http.request.method": "GET",
                "http.route": "/{any}",
                "http.response.status_code": status,
            }
            drawn.add(
                "stock",
                "GET /{any}",
                start + 1,
                end - 1,
                kind=Kind.SERVER,
                parent=call,
                remote=True,
                trace=trace,
                attributes=route,
            )


def test_recovered_exhausted_and_plain_calls_of_one_edge() -> None:
    drawn = Drawn()
    calls(drawn, request(drawn, 1), [(0, 10, 503), (60, 70, 503), (120, 130, 200)], answer=True, path="/a")
    calls(drawn, request(drawn, 2), [(0, 10, 503), (60, 70, 500)], answer=True, trace=2, path="/b")
    calls(drawn, request(drawn, 3), [(0, 10, 200)], answer=True, trace=3, path="/c")
    calls(drawn, request(drawn, 4), [(0, 10, 500)], answer=True, trace=4, path="/d")
    edge = only(drawn)
    assert (edge.kind, edge.caller, edge.callee, edge.operation) == ("visible", "shop", "stock", "GET /{any}")
    assert (edge.calls, edge.attempts, edge.retried_calls, edge.recovered, edge.exhausted) == (4, 7, 2, 1, 1)
    assert [(a.attempts, a.succeeded, a.failed) for a in edge.by_attempt] == [(4, 1, 3), (2, 0, 2), (1, 1, 0)]
    assert edge.wasted_ns == 40 * MS
    assert edge.backoff_ns == 150 * MS
    assert edge.errors == (("503", 3), ("500", 1))
    assert edge.endpoints == (("shop", "GET /cart", 2),)
    assert edge.trace_ids == (f"{1:032x}", f"{2:032x}")


def test_attempts_that_never_arrived_count() -> None:
    drawn = Drawn()
    root = request(drawn)
    drawn.add(
        "shop",
        "GET",
        0,
        5,
        parent=root,
        error="ConnectError",
        attributes={"http.request.method": "GET", "url.full": "http://stock:80/x"},
    )
    calls(drawn, root, [(10, 20, 200)], answer=True)
    edge = only(drawn)
    assert (edge.callee, edge.calls, edge.attempts, edge.errors) == ("stock", 1, 2, (("ConnectError", 1),))
    assert [(a.attempts, a.succeeded, a.failed) for a in edge.by_attempt] == [(1, 0, 1), (1, 1, 0)]


def test_callee_without_spans_is_its_address() -> None:
    drawn = Drawn()
    calls(drawn, request(drawn), [(0, 10, 429), (11, 20, 200)])
    edge = only(drawn)
    assert (edge.callee, edge.operation, edge.calls, edge.attempts) == ("stock:80", "GET http://stock:80/x", 1, 2)


@pytest.mark.parametrize(
    ("label", "tries"),
    [
        ("no failure", [(0, 10, 200), (11, 20, 200), (21, 30, 200)]),
        ("failure is the last", [(0, 10, 200), (11, 20, 503)]),
        ("hedge", [(0, 50, 503), (20, 60, 200)]),
        ("started together", [(0, 50, 503), (0.2, 60, 200)]),
        ("a minute later", [(0, 10, 503), (60_011, 60_020, 200)]),
        ("redirect", [(0, 10, 302), (11, 20, 200)]),
    ],
)
def test_not_a_retry(label: str, tries: list[tuple[float, float, int]]) -> None:
    drawn = Drawn()
    calls(drawn, request(drawn, end_ms=70_000), tries)
    assert report_of(drawn).edges == (), label


def test_other_targets_are_no_retry() -> None:
    drawn = Drawn()
    root = request(drawn)
    for number in range(6):
        calls(drawn, root, [(number * 20, number * 20 + 10, 503 if number == 2 else 200)], path=f"/item/{number}")
    assert report_of(drawn).edges == ()


def test_loop_over_rows_is_no_retry() -> None:
    drawn = Drawn()
    root = request(drawn)
    text: dict[str, AttributeValue] = {"db.system.name": "postgresql", "db.query.text": "insert into t values ($1)"}
    for number in range(8):
        error = "UniqueViolationError" if number == 4 else ""
        drawn.add("shop", "insert", number * 10, number * 10 + 5, parent=root, attributes=text, error=error)
    assert report_of(drawn).edges == ()


def test_transaction_tried_again_is_counted_once() -> None:
    drawn = Drawn()
    root = request(drawn)
    text: dict[str, AttributeValue] = {"db.system.name": "postgresql", "db.query.text": "update t set a = $1"}
    for start, error in ((0, "SerializationError"), (40, "")):
        drawn.add(
            "shop",
            "update",
            start,
            start + 10,
            parent=root,
            attributes=text,
            error=error,
            scope="opentelemetry.instrumentation.sqlalchemy",
        )
        drawn.add(
            "shop",
            "update",
            start + 1,
            start + 9,
            parent=root,
            attributes=text,
            error=error,
            scope="opentelemetry.instrumentation.asyncpg",
        )
    edge = only(drawn)
    assert (edge.calls, edge.attempts, edge.wasted_ns, edge.backoff_ns) == (1, 2, 10 * MS, 30 * MS)
    assert edge.callee == "postgresql"


def test_redis_script_that_is_not_loaded_yet() -> None:
    drawn = Drawn()
    root = request(drawn)
    text: dict[str, AttributeValue] = {"db.system.name": "redis", "db.query.text": "EVALSHA ? ?"}
    drawn.add("shop", "EVALSHA", 0, 1, parent=root, attributes=text, error="redis.exceptions.NoScriptError")
    drawn.add("shop", "EVALSHA", 3, 4, parent=root, attributes=text)
    assert report_of(drawn).edges == ()


def wrapped(statuses: Sequence[int]) -> Drawn:
    drawn = Drawn()
    root = request(drawn)
    for number, status in enumerate(statuses):
        start = number * 50.0
        wrapper = drawn.add("shop", "attempt", start, start + 20, kind=Kind.INTERNAL, parent=root)
        calls(drawn, wrapper, [(start + 1, start + 19, status)])
    return drawn


def test_a_wrapper_for_each_attempt() -> None:
    edge = only(wrapped([503, 503, 200]))
    assert (edge.calls, edge.attempts, edge.recovered, edge.backoff_ns) == (1, 3, 1, 2 * 32 * MS)
    assert edge.endpoints == (("shop", "GET /cart", 1),)


def test_a_wrapper_for_each_item_of_a_loop() -> None:
    assert report_of(wrapped([200, 503, 200, 200])).edges == ()


def hidden(*answers: tuple[str, str, float, float, int]) -> Drawn:
    drawn = Drawn()
    call = drawn.add("shop", "GET", 0, 500, parent=request(drawn), attributes=get())
    for service, route, start, end, status in answers:
        attributes: dict[str, AttributeValue] = {
            "http.request.method": "GET",
            "http.route": route,
            "http.response.status_code": status,
        }
        drawn.add(
            service,
            f"GET {route}",
            start,
            end,
            kind=Kind.SERVER,
            parent=call,
            remote=True,
            attributes=attributes,
            error=str(status) if status >= 500 else "",
        )
    return drawn


def test_hidden() -> None:
    edge = only(hidden(("stock", "/x", 1, 10, 503), ("stock", "/x", 110, 120, 200)))
    assert (edge.kind, edge.calls, edge.attempts, edge.recovered) == ("hidden", 1, 2, 1)
    assert (edge.wasted_ns, edge.backoff_ns) == (9 * MS, 100 * MS)


def test_hidden_after_the_client_gave_up_waiting() -> None:
    edge = only(hidden(("stock", "/x", 1, 300, 200), ("stock", "/x", 110, 120, 200)))
    assert (edge.attempts, edge.errors, edge.backoff_ns) == (2, (("given up", 1),), 0)


@pytest.mark.parametrize(
    ("answers", "notes"),
    [
        ((("stock", "/x", 1, 10, 302), ("stock", "/y", 11, 20, 200)), 1),
        ((("stock", "/x", 1, 10, 200), ("stock", "/x", 11, 20, 200)), 0),
        ((("stock", "/x", 1, 90, 200), ("stock", "/x", 1.1, 95, 200)), 0),
        ((("stock", "/x", 1, 10, 503), ("mirror", "/x", 11, 20, 200)), 0),
    ],
)
def test_several_answers_that_are_no_retry(answers: tuple[tuple[str, str, float, float, int], ...], notes: int) -> None:
    report = report_of(hidden(*answers))
    assert report.edges == ()
    assert len(report.notes) == notes


def test_message_ids_used_again_are_other_messages() -> None:
    drawn = Drawn()
    attributes: dict[str, AttributeValue] = {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": "orders",
        "messaging.message.id": "id1",
    }
    for trace in (1, 2, 3):
        begin = trace * 100
        sent = drawn.add(
            "shop", "orders send", begin, begin + 1, kind=Kind.PRODUCER, trace=trace, attributes=attributes
        )
        drawn.add(
            "worker",
            "orders receive",
            begin + 5,
            begin + 9,
            kind=Kind.CONSUMER,
            parent=sent,
            remote=True,
            trace=trace,
            attributes=attributes,
        )
    assert report_of(drawn).edges == ()


def test_fan_out_to_two_services_is_no_redelivery() -> None:
    drawn = Drawn()
    attributes: dict[str, AttributeValue] = {"messaging.system": "kafka", "messaging.destination.name": "orders"}
    sent = drawn.add("shop", "orders send", 0, 1, kind=Kind.PRODUCER, attributes=attributes)
    for service in ("mail", "stock"):
        drawn.add(service, "orders receive", 5, 9, kind=Kind.CONSUMER, parent=sent, remote=True, attributes=attributes)
    assert report_of(drawn).edges == ()


def test_celery_with_links_is_one_job() -> None:
    drawn = Drawn()
    for trace, state in ((1, "RETRY"), (2, "RETRY"), (3, "SUCCESS")):
        attributes: dict[str, AttributeValue] = {
            "celery.action": "run",
            "celery.state": state,
            "celery.retries": trace - 1,
            "messaging.message.id": "j1",
            "messaging.destination": "celery",
        }
        drawn.add(
            "worker",
            "run/mail.send",
            trace * 1000,
            trace * 1000 + 10,
            kind=Kind.CONSUMER,
            trace=trace,
            attributes=attributes,
        )
    edge = only(drawn)
    assert (edge.kind, edge.operation, edge.calls, edge.attempts, edge.recovered) == ("job", "mail.send", 1, 3, 1)
    assert edge.errors == (("retry", 2),)


@pytest.mark.parametrize(
    ("gaps_ms", "shape"),
    [
        ([[50, 51], [52, 53]], "unknown"),
        ([[0.1, 0.2, 0.3], [0.1, 4.0, 0.2]], "none"),
        ([[50, 51, 54], [52, 61, 50], [53]], "constant"),
        ([[50, 51, 54, 900], [52, 61, 50, 51], [53]], "constant"),
        ([[50, 51, 54], [102, 108, 100], [205, 201, 220]], "growing"),
        ([[5, 90, 40], [12, 66, 30], [81]], "jittered"),
    ],
)
def test_backoff_shapes(gaps_ms: list[list[float]], shape: str) -> None:
    assert backoff_shape([[round(gap * MS) for gap in part] for part in gaps_ms]) == shape


def everything() -> Drawn:
    drawn = wrapped([503, 200])
    for trace in range(2, 12):
        calls(
            drawn,
            request(drawn, trace),
            [(0, 10, 503), (60 + trace, 70 + trace, 200)],
            answer=trace % 2 == 0,
            trace=trace,
            path=f"/p{trace % 3}",
        )
    return drawn


def test_sending_again_changes_nothing() -> None:
    batch = everything().batch()
    with stored([batch]) as spans:
        once = retry_costs(spans)
    with stored([batch, everything().batch(), batch]) as spans:
        assert retry_costs(spans) == once
    assert once.edges


def test_other_ids_change_nothing() -> None:
    with stored([everything().batch()]) as spans:
        plain = retry_costs(spans)
    with stored([everything().batch(lambda number: (number * 0x9E3779B97F4A7C15 + 5) % 2**64 or 1)]) as spans:
        relabelled = retry_costs(spans)
    assert [_without_ids(edge) for edge in plain.edges] == [_without_ids(edge) for edge in relabelled.edges]


def _without_ids(edge: RetryEdge) -> dict[str, object]:
    return {name: value for name, value in vars(edge).items() if name != "trace_ids"}


def test_cycles_and_hostile_names_are_survived() -> None:
    hostile = "sh'op\"; drop table all_spans; -- <script>alert(1)</script> %_\x00"
    drawn = Drawn()
    drawn.add(hostile, "a", 0, 900, kind=Kind.INTERNAL, parent=2)
    drawn.add(hostile, "b", 0, 900, kind=Kind.INTERNAL, parent=1)
    drawn.add(hostile, "self", 0, 900, kind=Kind.INTERNAL, parent=3)
    for parent in (1, 3):
        for start, error in ((0, "Broken'; --"), (20, "")):
            attributes = get(f"/{parent}")
            drawn.add(hostile, "GET", start, start + 10, parent=parent, error=error, attributes=attributes)
    report = report_of(drawn)
    (edge,) = report.edges
    assert (edge.calls, edge.attempts, edge.errors) == (2, 4, (("Broken'; --", 2),))
    assert sum(paid for _, _, paid in edge.endpoints) == 2


def test_attempts_answered_by_another_endpoint() -> None:
    drawn = Drawn()
    root = request(drawn)
    calls(drawn, root, [(0, 10, 503), (20, 30, 200)])
    for parent, route in ((2, "/old"), (3, "/new")):
        route_of: dict[str, AttributeValue] = {"http.request.method": "GET", "http.route": route}
        start = parent * 20 - 39
        drawn.add(
            "stock", f"GET {route}", start, start + 5, kind=Kind.SERVER, parent=parent, remote=True, attributes=route_of
        )
    edge = only(drawn)
    assert (edge.operation, edge.calls, edge.attempts, edge.retried_calls) == ("GET /old", 1, 2, 1)
    assert [(a.attempts, a.succeeded, a.failed) for a in edge.by_attempt] == [(1, 0, 1), (1, 1, 0)]
