"""Names and attributes of real instrumentation, old and new, folded into the same facts."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.normalise import normalise_sql, url_template
from analysis.outcomes import ExceptionEvent, Outcome
from analysis.semantics import (
    OperationClass,
    ParentOrigin,
    Promoted,
    RequestClass,
    parent_origin,
    promote,
    request_start_ns,
)
from analysis.span import Kind, Status

SCOPE = "opentelemetry.instrumentation."


def facts(kind: Kind, name: str, attributes: dict[str, Any], **changes: Any) -> Promoted:
    values: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "scope_name": "",
        "status": Status.UNSET,
        "status_message": "",
        "attributes": attributes,
        "origin": ParentOrigin.LOCAL,
        "exception": None,
        "has_events": False,
    }
    return promote(**{**values, **changes})


@pytest.mark.parametrize(
    "attributes",
    [
        {"http.method": "GET", "http.url": "http://127.0.0.1:8101/item/7?x=1", "http.status_code": 503},
        {
            "http.request.method": "GET",
            "url.full": "http://127.0.0.1:8101/item/7?x=1",
            "server.address": "127.0.0.1",
            "server.port": 8101,
            "http.response.status_code": 503,
            "error.type": "503",
        },
    ],
    ids=["old", "new"],
)
def test_http_client(attributes: dict[str, Any]) -> None:
    found = facts(Kind.CLIENT, "GET", attributes, scope_name=SCOPE + "httpx", status=Status.ERROR)
    assert found.operation == "GET http://127.0.0.1:8101/item/{n}"
    assert found.operation_class == OperationClass.HTTP
    assert found.peer == "127.0.0.1:8101"
    assert (found.http_status, found.error_type, found.outcome) == (503, "503", Outcome.ERROR)
    assert found.target_hash


def test_http_server_and_its_endpoint() -> None:
    found = facts(
        Kind.SERVER,
        "GET /basic/{x}",
        {"http.method": "GET", "http.route": "/basic/{x}", "http.status_code": 429},
        origin=ParentOrigin.REMOTE,
    )
    assert found.endpoint == "GET /basic/{x}"
    assert found.request_class == RequestClass.REQUEST
    assert found.outcome == Outcome.ERROR, "429 is a failed attempt although the server leaves its status unset"
    assert facts(Kind.SERVER, "GET /x", {"http.status_code": 404}).outcome == Outcome.OK


@pytest.mark.parametrize(
    ("kind", "scope", "attributes", "changes", "outcome"),
    [
        (Kind.CLIENT, "httpx", {"http.url": "http://a/"}, {}, Outcome.CANCELLED),
        (Kind.CLIENT, "httpx", {"http.url": "http://a/"}, {"has_events": True, "status": 2}, Outcome.ERROR),
        (
            Kind.CLIENT,
            "httpx",
            {"http.url": "http://a/"},
            {"status": 2, "has_events": True, "exception": ExceptionEvent("httpx.ReadTimeout", "")},
            Outcome.TIMEOUT,
        ),
        (
            Kind.CLIENT,
            "aiohttp_client",
            {"http.url": "http://a/"},
            {"status": 2, "exception": ExceptionEvent("asyncio.exceptions.CancelledError", ""), "has_events": True},
            Outcome.CANCELLED,
        ),
        (Kind.SERVER, "aiohttp_server", {"http.method": "GET"}, {}, Outcome.CANCELLED),
        (Kind.CLIENT, "sqlalchemy", {"db.system": "postgresql"}, {"status": 2}, Outcome.CANCELLED),
        (
            Kind.CLIENT,
            "sqlalchemy",
            {"db.system": "postgresql"},
            {
                "status": 2,
                "status_message": "TimeoutError: QueuePool limit of size 2 overflow 0 reached",
                "exception": ExceptionEvent("sqlalchemy.exc.TimeoutError", "QueuePool limit"),
                "has_events": True,
            },
            Outcome.TIMEOUT,
        ),
        (Kind.SERVER, "arq", {"arq.job.id": "1", "arq.job.try": 1}, {}, Outcome.CANCELLED),
        (Kind.CLIENT, "grpc", {"rpc.system": "grpc", "rpc.grpc.status_code": 4}, {"status": 2}, Outcome.TIMEOUT),
        (Kind.CONSUMER, "celery", {"celery.state": "RETRY", "celery.action": "run"}, {}, Outcome.ERROR),
        (Kind.CLIENT, "redis", {"db.system": "redis", "db.statement": "GET ?"}, {}, Outcome.OK),
    ],
)
def test_outcomes(kind: Kind, scope: str, attributes: dict[str, Any], changes: dict[str, Any], outcome: str) -> None:
    assert facts(kind, "call", attributes, scope_name=SCOPE + scope, **changes).outcome == outcome


def test_a_status_that_hides_in_an_exception_message() -> None:
    found = facts(
        Kind.CLIENT,
        "GET",
        {"http.url": "http://a/", "error.type": "ClientResponseError"},
        status=Status.ERROR,
        exception=ExceptionEvent("aiohttp.client_exceptions.ClientResponseError", "503, message='Service Unavailable'"),
        has_events=True,
    )
    assert (found.http_status, found.error_type) == (503, "ClientResponseError")


@pytest.mark.parametrize(
    ("kind", "name", "attributes", "scope", "expected"),
    [
        (Kind.INTERNAL, "GET /x http send", {"asgi.event.type": "http.response.start"}, "fastapi", OperationClass.ASGI),
        (Kind.INTERNAL, "GET /x http receive", {}, "fastapi", OperationClass.ASGI),
        (Kind.INTERNAL, "BackgroundTask mail", {}, "fastapi", OperationClass.BACKGROUND),
        (Kind.CLIENT, "connect", {"db.system": "postgresql"}, "sqlalchemy", OperationClass.POOL),
        (Kind.CLIENT, "connect", {"db.system": "postgresql"}, "psycopg", OperationClass.DATABASE),
        (
            Kind.CLIENT,
            "BEGIN;",
            {"db.system": "postgresql", "db.statement": "BEGIN;"},
            "asyncpg",
            OperationClass.DATABASE_SESSION,
        ),
        (Kind.CLIENT, "GET", {"db.system": "redis", "db.statement": "GET ?"}, "redis", OperationClass.CACHE),
        (Kind.PRODUCER, "apply_async/t", {"messaging.destination": "q"}, "celery", OperationClass.PRODUCER),
        (Kind.CLIENT, "task", {"arq.job.id": "1", "arq.job.queue": "q"}, "arq", OperationClass.PRODUCER),
        (Kind.SERVER, "task", {"arq.job.id": "1"}, "arq", OperationClass.CONSUMER),
        (
            Kind.CLIENT,
            "/a.B/C",
            {"rpc.system": "grpc", "rpc.service": "a.B", "rpc.method": "C"},
            "grpc",
            OperationClass.RPC,
        ),
        (Kind.INTERNAL, "asyncio coro-worker", {}, "asyncio", OperationClass.TASK),
        (Kind.INTERNAL, "compute", {}, "app", OperationClass.INTERNAL),
    ],
)
def test_operation_classes(kind: Kind, name: str, attributes: dict[str, Any], scope: str, expected: str) -> None:
    assert facts(kind, name, attributes, scope_name=SCOPE + scope).operation_class == expected


@pytest.mark.parametrize(
    ("kind", "attributes", "origin", "expected"),
    [
        (Kind.SERVER, {"url.scheme": "ws"}, ParentOrigin.ROOT, RequestClass.CONNECTION),
        (Kind.CLIENT, {"http.url": "http://a/"}, ParentOrigin.ROOT, RequestClass.CALLER),
        (Kind.CLIENT, {"db.system": "redis"}, ParentOrigin.ROOT, RequestClass.HOUSEKEEPING),
        (Kind.CLIENT, {"http.url": "http://a/"}, ParentOrigin.REMOTE, RequestClass.NONE),
        (Kind.INTERNAL, {}, ParentOrigin.ROOT, RequestClass.REQUEST),
        (Kind.INTERNAL, {}, ParentOrigin.LOCAL, RequestClass.NONE),
        (Kind.INTERNAL, {}, ParentOrigin.REMOTE, RequestClass.REQUEST),
        (Kind.INTERNAL, {}, ParentOrigin.UNKNOWN, RequestClass.CANDIDATE),
        (Kind.CONSUMER, {}, ParentOrigin.REMOTE, RequestClass.REQUEST),
    ],
)
def test_request_classes(kind: Kind, attributes: dict[str, Any], origin: ParentOrigin, expected: str) -> None:
    assert facts(kind, "x", attributes, origin=origin).request_class == expected


def test_parent_origin_from_flags() -> None:
    assert parent_origin(0, 0x300) == ParentOrigin.ROOT
    assert parent_origin(1, 0x100) == ParentOrigin.LOCAL
    assert parent_origin(1, 0x300) == ParentOrigin.REMOTE
    assert parent_origin(1, 0xFFFFFC00) == ParentOrigin.UNKNOWN


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("t=1795333563.352458", 1_795_333_563_352_458_000),
        ("1795333563352", 1_795_333_563_352_000_000),
        ("t=1795333563352458", 1_795_333_563_352_458_000),
        ("1795333563352458123", 1_795_333_563_352_458_123),
        ("soon", 0),
        ("12", 0),
    ],
)
def test_request_start_header(header: str, expected: int) -> None:
    assert request_start_ns(header) == expected


def test_job_facts() -> None:
    arq = facts(Kind.SERVER, "t", {"arq.job.id": "j1", "arq.job.try": 2, "arq.job.score": 1_795_333_563_352})
    assert (arq.attempt, arq.ready_ns, arq.message_id) == (2, 1_795_333_563_352_000_000, "j1")
    celery = facts(
        Kind.CONSUMER,
        "run/t",
        {"celery.action": "run", "celery.retries": 1, "celery.eta": "2026-11-22T07:34:00.930931+00:00"},
    )
    assert (celery.attempt, celery.ready_ns) == (2, 1_795_332_840_930_931_000)
    taskiq = facts(Kind.CONSUMER, "execute/t", {"taskiq.action": "execute", "taskiq._retries": "3"})
    assert taskiq.attempt == 0, "its counter is one ahead on failing runs"


@pytest.mark.parametrize(
    ("statement", "normal"),
    [
        ("SELECT a FROM b WHERE id = $1::INTEGER AND c = 'x''y'", "SELECT a FROM b WHERE id = ? AND c = ?"),
        ("select * from t where id in (1, 2,3)", "select * from t where id in (?*)"),
        ("select * from t where id in ($1, $2)", "select * from t where id in (?*)"),
        ("insert into t values (%s, %s), (%s, %s)", "insert into t values (?*)"),
        ("select *\n  from t1 where a = -1.5e3", "select * from t1 where a = ?"),
        ("select %(name)s, :other", "select ?, ?"),
        ("select a::text from t", "select a::text from t"),
    ],
)
def test_normalised_sql(statement: str, normal: str) -> None:
    assert normalise_sql(statement) == normal


@pytest.mark.parametrize(
    ("url", "template"),
    [
        ("http://user:secret@shop:80/a/12/b?token=x#y", "http://shop:80/a/{n}/b"),
        ("/items/3f2a9c1e-aaaa-bbbb-cccc-1234567890ab", "/items/{n}"),
        ("http://shop/v1/traces", "http://shop/v1/traces"),
        ("http://shop/cart/cart-12", "http://shop/cart/{n}"),
        ("", ""),
    ],
)
def test_url_template(url: str, template: str) -> None:
    assert url_template(url) == template


def test_odd_values_never_raise() -> None:
    odd: list[Any] = [None, "", [], {}, b"\xff", float("nan"), -1, True, "9" * 400, "\ud800", 2**70]
    for value in odd:
        for key in ("http.status_code", "db.statement", "http.url", "arq.job.score", "celery.eta", "error.type"):
            facts(Kind.CLIENT, "x", {key: value}, scope_name=SCOPE + "httpx")
