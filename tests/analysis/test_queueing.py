"""Waits in hand-made traces: what counts, what does not, and what is said about doubt."""

from __future__ import annotations

import random

import pytest

from analysis.queueing import queue_waits
from analysis.reports import QueuesReport
from analysis.sketch import EPOCH_NS
from analysis.span import Kind, Window
from app.otlp.attributes import AttributeValue
from tests.stored import MS, Drawn, stored

SQLALCHEMY = "opentelemetry.instrumentation.sqlalchemy"
ASYNCPG = "opentelemetry.instrumentation.asyncpg"
DATABASE: dict[str, AttributeValue] = {"db.system.name": "postgresql", "db.namespace": "shop"}
BEGIN: dict[str, AttributeValue] = {**DATABASE, "db.query.text": "BEGIN;"}


def message(number: int, queue: str = "orders") -> dict[str, AttributeValue]:
    return {"messaging.system": "rabbitmq", "messaging.destination.name": queue, "messaging.message.id": f"m{number}"}


def report_of(drawn: Drawn, window: Window | None = None) -> QueuesReport:
    with stored([drawn.batch()], window) as spans:
        return queue_waits(spans)


def publish_and_run(
    drawn: Drawn, number: int, at_ms: float, wait_ms: float, run_ms: float = 10, queue: str = "orders"
) -> None:
    trace = number + 1
    root = drawn.add("shop", "POST /order", at_ms, at_ms + 5, kind=Kind.SERVER, trace=trace)
    published = drawn.add(
        "shop",
        f"{queue} send",
        at_ms + 1,
        at_ms + 2,
        kind=Kind.PRODUCER,
        parent=root,
        trace=trace,
        attributes=message(number, queue),
    )
    begin = at_ms + 2 + wait_ms
    drawn.add(
        "worker",
        f"{queue} receive",
        begin,
        begin + run_ms,
        kind=Kind.CONSUMER,
        parent=published,
        remote=True,
        trace=trace,
        attributes=message(number, queue),
    )


def test_queue_by_parent() -> None:
    drawn = Drawn()
    for number in range(50):
        publish_and_run(drawn, number, number * 100, wait_ms=number)
    (row,) = report_of(drawn).rows
    assert (row.kind, row.service, row.name, row.confidence) == ("queue", "worker", "orders", "measured")
    assert (row.count, row.waited) == (50, 48)
    assert row.total_ns == sum(range(50)) * MS
    assert row.max_ns == 49 * MS
    assert row.p50.value_ns == 24_500_000
    assert row.service_p50_ns == 10 * MS
    assert row.payers == (("worker", "orders receive", 48, (sum(range(50)) - 1) * MS),)
    assert row.notes[0] == "Published by shop POST /order (50)."
    assert row.arrivals == (10, 10, 10, 10, 10)
    assert row.wait_p95_ns == (None,) * 5
    assert row.trace_ids[0] == f"{50:032x}"


def test_queue_by_link() -> None:
    drawn = Drawn()
    published = drawn.add("shop", "orders send", 0, 1, kind=Kind.PRODUCER, attributes=message(1))
    drawn.add(
        "worker", "orders process", 31, 40, kind=Kind.CONSUMER, trace=2, links=[(1, published)], attributes=message(1)
    )
    report = report_of(drawn)
    (row,) = report.rows
    assert (row.name, row.count, row.max_ns) == ("orders", 1, 30 * MS)
    assert report.never_run == ()


def test_messages_published_before_the_window_count() -> None:
    drawn = Drawn()
    publish_and_run(drawn, 1, 0, wait_ms=60_000)
    window = Window(EPOCH_NS + 50_000 * MS, EPOCH_NS + 70_000 * MS)
    (row,) = report_of(drawn, window).rows
    assert row.max_ns == 60_000 * MS
    assert row.arrivals[0] == 1
    assert len(row.arrivals) == len(row.start_ns) == len(row.wait_p95_ns)


def test_clock_skew_is_said_and_not_counted() -> None:
    drawn = Drawn()
    publish_and_run(drawn, 1, 0, wait_ms=20)
    publish_and_run(drawn, 2, 1000, wait_ms=-50)
    publish_and_run(drawn, 3, 2000, wait_ms=-0.5)
    (row,) = report_of(drawn).rows
    assert (row.count, row.waited, row.total_ns) == (3, 1, 20 * MS)
    assert any(note.startswith("1 run began before the message was published, by up to 49.0 ms") for note in row.notes)
    assert any(note.startswith("1 began while the producer's span was still open") for note in row.notes)


def test_never_run_needs_a_later_message_that_ran() -> None:
    drawn = Drawn()
    for number, name in enumerate(("orders send", "orders send", "mails send")):
        queue = name.split()[0]
        drawn.add(
            "shop", name, number, number + 1, kind=Kind.PRODUCER, trace=50 + number, attributes=message(number, queue)
        )
    assert report_of(drawn).never_run == ()
    publish_and_run(drawn, 1, 100, wait_ms=1)
    # Still in the queue, for all anybody knows: published after the last message that was taken.
    drawn.add("shop", "orders send", 200, 201, kind=Kind.PRODUCER, trace=60, attributes=message(9))
    assert report_of(drawn).never_run == (("shop", "orders", 2),)


def checkout(
    drawn: Drawn,
    number: int,
    start_ms: float,
    got_ms: float,
    free_ms: float,
    *,
    driver: bool = True,
    setup: bool = False,
) -> None:
    trace = number + 1
    root = drawn.add("shop", "GET /cart", start_ms - 1, free_ms + 1, kind=Kind.SERVER, trace=trace)
    connect = drawn.add(
        "shop", "connect", start_ms, got_ms, parent=root, trace=trace, scope=SQLALCHEMY, attributes=DATABASE
    )
    if setup:
        drawn.add(
            "shop", "BEGIN;", start_ms + 1, got_ms - 1, parent=connect, trace=trace, scope=ASYNCPG, attributes=BEGIN
        )
    text: dict[str, AttributeValue] = {**DATABASE, "db.query.text": "select 1"}
    drawn.add("shop", "select", got_ms, free_ms, parent=root, trace=trace, scope=SQLALCHEMY, attributes=text)
    if driver:
        drawn.add("shop", "BEGIN;", got_ms, got_ms + 0.1, parent=root, trace=trace, scope=ASYNCPG, attributes=BEGIN)


def crowded_pool(drawn: Drawn, *, driver: bool = True) -> None:
    """A pool of one: every request holds it 50 ms, four come at once, five times over."""
    number = 0
    checkout(drawn, number, 0, 80, 90, setup=True, driver=driver)
    for burst in range(5):
        for place in range(4):
            number += 1
            begin = 1000 * (burst + 1)
            checkout(drawn, number, begin, begin + place * 51 + 0.2, begin + place * 51 + 50, driver=driver)


@pytest.mark.parametrize(("driver", "confidence"), [(True, "derived"), (False, "inferred")])
def test_crowded_pool(driver: bool, confidence: str) -> None:
    drawn = Drawn()
    crowded_pool(drawn, driver=driver)
    if not driver:
        drawn.records = [record for record in drawn.records if record[2] != ASYNCPG]
    (row,) = report_of(drawn).rows
    assert (row.kind, row.service, row.name) == ("pool", "shop", "postgresql shop")
    assert row.waited == 15
    assert row.max_ns == 153_200_000
    assert row.confidence == confidence
    assert row.service_p50_ns == 0
    assert row.payers[0][:3] == ("shop", "GET /cart", 15)
    assert "At most 1 connection of a process in use at once." in row.notes


def test_growing_pool_of_a_busy_process_is_no_wait() -> None:
    """Ten connections are opened in 60 ms each while others are given back all the time; then nobody waits."""
    drawn = Drawn()
    chance = random.Random(3)
    for number in range(10):
        checkout(drawn, number, number * 7, number * 7 + 60, 300 + number * 10)
    for number in range(10, 400):
        begin = (number - 10) * 5.0
        checkout(drawn, number, begin, begin + 0.2, begin + 0.2 + chance.random() * 10)
    assert report_of(drawn).rows == ()


def test_pool_timeouts_count_alone() -> None:
    drawn = Drawn()
    checkout(drawn, 1, 0, 0.3, 2000)
    root = drawn.add("shop", "GET /cart", 10, 1015, kind=Kind.SERVER, trace=9)
    drawn.add(
        "shop",
        "connect",
        11,
        1012,
        parent=root,
        trace=9,
        scope=SQLALCHEMY,
        attributes=DATABASE,
        error="TimeoutError",
        status_message="QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00",
    )
    (row,) = report_of(drawn).rows
    assert (row.timeouts, row.waited, row.max_ns) == (1, 1, 1001 * MS)
    assert row.notes[0].startswith("Pool size 5, overflow 10, time-out 30 s")


def test_front_needs_five_milliseconds() -> None:
    def front(waits_ms: list[float]) -> QueuesReport:
        drawn = Drawn()
        for number, wait in enumerate(waits_ms):
            begin = 100.0 * number
            stamp = f"t={(EPOCH_NS + round((begin - wait) * MS)) / 1e9:.6f}"
            attributes: dict[str, AttributeValue] = {"http.request.header.x_request_start": [stamp]}
            drawn.add("shop", "GET /", begin, begin + 10, kind=Kind.SERVER, trace=number + 1, attributes=attributes)
        return report_of(drawn)

    assert front([1, 2, 3]).rows == ()
    (row,) = front([1, 40, -3]).rows
    assert (row.kind, row.name, row.count, row.waited) == ("front", "in front of shop", 3, 1)
    assert row.max_ns / MS == pytest.approx(40, abs=0.01)
    assert row.notes[0].startswith("1 request began before X-Request-Start by up to 3.0 ms")


def test_header_is_advised_where_requests_enter() -> None:
    drawn = Drawn()
    drawn.add("shop", "GET /", 0, 1, kind=Kind.SERVER)
    (note,) = report_of(drawn).notes
    assert "in front of shop" in note
    assert "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST=x-request-start" in note


@pytest.mark.parametrize(("pause_ms", "said"), [(1, True), (300, False), (-20, False)])
def test_unlinked_consumer(pause_ms: float, said: bool) -> None:
    drawn = Drawn()
    drawn.add("shop", "GET /", 0, 1, kind=Kind.SERVER, trace=99)
    for number in range(5):
        begin = number * (100 + pause_ms)
        drawn.add("shop", "handle_job", begin, begin + 100, kind=Kind.INTERNAL, trace=number + 1)
    notes = report_of(drawn).notes
    assert any("handle_job" in note for note in notes) is said


def everything() -> Drawn:
    drawn = Drawn()
    crowded_pool(drawn)
    for number in range(60, 90):
        publish_and_run(drawn, number, number * 40, wait_ms=number % 17)
    drawn.add("shop", "orders send", 100, 101, kind=Kind.PRODUCER, trace=200, attributes=message(777))
    return drawn


def test_sending_again_changes_nothing() -> None:
    batch = everything().batch()
    with stored([batch]) as spans:
        once = queue_waits(spans)
    with stored([batch, batch, everything().batch()]) as spans:
        assert queue_waits(spans) == once
    assert len(once.rows) == 2


def test_other_ids_change_nothing() -> None:
    with stored([everything().batch()]) as spans:
        plain = queue_waits(spans)
    with stored([everything().batch(lambda number: (number * 0x9E3779B97F4A7C15 + 5) % 2**64 or 1)]) as spans:
        relabelled = queue_waits(spans)
    assert [_without_ids(row) for row in plain.rows] == [_without_ids(row) for row in relabelled.rows]
    assert (plain.never_run, plain.notes) == (relabelled.never_run, relabelled.notes)


def _without_ids(row: object) -> dict[str, object]:
    return {name: value for name, value in vars(row).items() if name != "trace_ids"}
