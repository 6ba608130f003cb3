"""What a span's names and attributes mean: old and new semantic conventions folded into a few typed facts.

Every decoder calls `promote` for every span, so that all analyses read the same columns whatever the sender's version.
Rules and names come from what Python instrumentation was observed to emit (OpenTelemetry contrib 0.66b1), and from
the semantic conventions for HTTP, databases, messaging and RPC in both their old and their stable spelling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from analysis.attributes import Attributes, number, text
from analysis.normalise import content_hash64, normalise_sql, url_template
from analysis.outcomes import INSTRUMENTATION, ExceptionEvent, error_type_of, http_status_of, outcome_of
from analysis.span import Kind


class ParentOrigin(StrEnum):
    """Where a span's parent is, from Span.flags bits 8 and 9 (trace.proto, SpanFlags) or from a whole file."""

    ROOT = "root"
    LOCAL = "local"
    REMOTE = "remote"
    UNKNOWN = "unknown"


class OperationClass(StrEnum):
    """What kind of work a span stands for."""

    SERVER = "server"
    CONSUMER = "consumer"
    PRODUCER = "producer"
    HTTP = "http"
    RPC = "rpc"
    DATABASE = "database"
    DATABASE_SESSION = "database_session"
    """BEGIN, COMMIT, ROLLBACK and what drivers ask on connecting: real time, but no query."""
    POOL = "pool"
    """A connection pool's checkout (SQLAlchemy `connect`)."""
    CACHE = "cache"
    INTERNAL = "internal"
    ASGI = "asgi"
    """`http send` and `http receive` of the ASGI middleware."""
    TASK = "task"
    """Lifetime of an asyncio task or future."""
    BACKGROUND = "background"
    """Starlette BackgroundTask: runs after the response."""


class RequestClass(StrEnum):
    """Whether a span begins a request, and if so whether it may be ranked."""

    NONE = ""
    REQUEST = "request"
    CANDIDATE = "candidate"
    """A request only if no span of the same service is its parent: sender did not say where the parent is."""
    CALLER = "caller"
    """A root CLIENT or PRODUCER span: a driver outside the system."""
    HOUSEKEEPING = "housekeeping"
    """A root database, cache or task span: worker polling and lifetimes."""
    CONNECTION = "connection"
    """A websocket: lives as long as its socket."""


@dataclass(frozen=True, slots=True)
class Promoted:
    """The typed facts of one span; field for field they are columns of the store (see `analysis.span.Span`)."""

    parent_origin: str
    endpoint: str
    operation_class: str
    operation: str
    peer: str
    outcome: str
    error_type: str
    http_status: int
    attempt: int
    ready_ns: int
    message_id: str
    target_hash: int
    request_class: str


_DATABASE_CACHES = frozenset({"redis", "memcached", "valkey", "hazelcast", "aerospike"})
_SESSION = re.compile(
    r"\s*(?:begin|commit|rollback|savepoint|release|show|start transaction|set (?:session|local))\b", re.I
)
_SESSION_PARTS = ("pg_advisory_unlock_all", "pg_catalog.version", "current_schema()", "pg_catalog.pg_type")
_ASGI_NAME = re.compile(r" (?:http|websocket) (?:send|receive)$")


def parent_origin(parent_span_id: int, flags: int) -> ParentOrigin:
    """Where the parent is, from its id and Span.flags (trace.proto, SpanFlags: bit 8 says that bit 9 is known)."""
    if parent_span_id == 0:
        return ParentOrigin.ROOT
    if flags & 0x100:
        return ParentOrigin.REMOTE if flags & 0x200 else ParentOrigin.LOCAL
    return ParentOrigin.UNKNOWN


def promote(
    *,
    kind: int,
    name: str,
    scope_name: str,
    status: int,
    status_message: str,
    attributes: Attributes,
    origin: ParentOrigin,
    exception: ExceptionEvent | None,
    has_events: bool,
) -> Promoted:
    """The typed facts of one span; pure and total: odd values become empty ones, never errors."""
    http_status = http_status_of(attributes, exception)
    operation_class = _operation_class(kind, name, scope_name, attributes)
    error_type = error_type_of(attributes, status, status_message, http_status, exception)
    outcome = outcome_of(
        kind, scope_name, status, status_message, attributes, http_status, error_type, exception, has_events
    )
    target = _target(operation_class, attributes)
    return Promoted(
        parent_origin=origin.value,
        endpoint=_endpoint(kind, name, attributes),
        operation_class=operation_class.value,
        operation=_operation(operation_class, name, attributes),
        peer=_peer(operation_class, attributes),
        outcome=outcome.value,
        error_type=error_type,
        http_status=http_status,
        attempt=_attempt(attributes),
        ready_ns=_ready_ns(attributes),
        message_id=text(attributes, "messaging.message.id", "arq.job.id"),
        target_hash=content_hash64(target) if target else 0,
        request_class=_request_class(kind, operation_class, attributes, origin, scope_name).value,
    )


def _operation_class(kind: int, name: str, scope_name: str, attributes: Attributes) -> OperationClass:
    if "asgi.event.type" in attributes or (kind == Kind.INTERNAL and _ASGI_NAME.search(name)):
        return OperationClass.ASGI
    if kind == Kind.INTERNAL and name.startswith("BackgroundTask "):
        return OperationClass.BACKGROUND
    if kind == Kind.INTERNAL and scope_name == INSTRUMENTATION + "asyncio":
        return OperationClass.TASK
    if kind == Kind.SERVER:
        return OperationClass.CONSUMER if "arq.job.id" in attributes else OperationClass.SERVER
    if kind == Kind.CONSUMER:
        return OperationClass.CONSUMER
    if kind == Kind.PRODUCER or "arq.job.id" in attributes:
        return OperationClass.PRODUCER
    system = text(attributes, "db.system.name", "db.system").lower()
    if system or text(attributes, "db.statement", "db.query.text"):
        return _database_class(system, name, scope_name, attributes)
    if text(attributes, "rpc.system", "rpc.system.name", "rpc.service"):
        return OperationClass.RPC
    if text(attributes, "http.request.method", "http.method", "url.full", "http.url"):
        return OperationClass.HTTP
    if text(attributes, "messaging.system", "messaging.destination", "messaging.destination.name"):
        return OperationClass.PRODUCER
    return OperationClass.RPC if kind == Kind.CLIENT else OperationClass.INTERNAL


def _database_class(system: str, name: str, scope_name: str, attributes: Attributes) -> OperationClass:
    if system in _DATABASE_CACHES:
        return OperationClass.CACHE
    if scope_name == INSTRUMENTATION + "sqlalchemy" and name == "connect":
        return OperationClass.POOL
    statement = text(attributes, "db.query.text", "db.statement") or name
    if _SESSION.match(statement) or any(part in statement for part in _SESSION_PARTS):
        return OperationClass.DATABASE_SESSION
    return OperationClass.DATABASE


def _target(operation_class: OperationClass, attributes: Attributes) -> str:
    match operation_class:
        case OperationClass.DATABASE | OperationClass.CACHE | OperationClass.DATABASE_SESSION:
            return text(attributes, "db.query.text", "db.statement")
        case OperationClass.HTTP:
            return text(attributes, "url.full", "http.url")
        case _:
            return ""


def _operation(operation_class: OperationClass, name: str, attributes: Attributes) -> str:
    match operation_class:
        case OperationClass.DATABASE | OperationClass.DATABASE_SESSION | OperationClass.CACHE:
            statement = text(attributes, "db.query.text", "db.statement")
            return normalise_sql(statement) if statement else name
        case OperationClass.HTTP:
            method = text(attributes, "http.request.method", "http.method")
            url = text(attributes, "url.template") or url_template(text(attributes, "url.full", "http.url"))
            return f"{method} {url}".strip() if url else name
        case OperationClass.RPC:
            service, method = text(attributes, "rpc.service"), text(attributes, "rpc.method")
            return f"{service}/{method}" if service and method else name
        case _:
            return name


def _endpoint(kind: int, name: str, attributes: Attributes) -> str:
    if kind != Kind.SERVER:
        return name
    route = text(attributes, "http.route")
    method = text(attributes, "http.request.method", "http.method")
    return f"{method} {route}" if route and method else name


def _peer(operation_class: OperationClass, attributes: Attributes) -> str:
    match operation_class:
        case OperationClass.PRODUCER | OperationClass.CONSUMER:
            named = text(attributes, "messaging.destination.name", "messaging.destination", "arq.job.queue")
            # aio-pika writes ",jobs" on the producer (exchange, routing key) and "jobs" on the consumer.
            return named.lstrip(",")
        case OperationClass.DATABASE | OperationClass.DATABASE_SESSION | OperationClass.CACHE | OperationClass.POOL:
            system = text(attributes, "db.system.name", "db.system")
            namespace = text(attributes, "db.namespace", "db.name", "db.redis.database_index")
            return f"{system} {namespace}".strip()
        case OperationClass.HTTP | OperationClass.RPC:
            return _address(attributes)
        case _:
            return ""


def _address(attributes: Attributes) -> str:
    address = text(attributes, "server.address", "net.peer.name", "net.peer.ip", "net.sock.peer.addr", "peer.service")
    port = number(attributes, "server.port", "net.peer.port")
    if address:
        return address if not port or address.endswith(f":{port}") else f"{address}:{port}"
    return _authority(text(attributes, "url.full", "http.url"))


@lru_cache(maxsize=4096)
def _authority(url: str) -> str:
    rest = url.partition("://")[2]
    return re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]


def _attempt(attributes: Attributes) -> int:
    resend = number(attributes, "http.request.resend_count", "http.resend_count")
    if resend:
        return resend + 1
    if "arq.job.try" in attributes:
        return number(attributes, "arq.job.try")
    if "celery.action" in attributes:
        return number(attributes, "celery.retries") + 1
    previous = number(attributes, "rpc.grpc.previous_attempts", "grpc.previous_rpc_attempts")
    return previous + 1 if previous else 0


def _ready_ns(attributes: Attributes) -> int:
    score_ms = number(attributes, "arq.job.score")
    if score_ms:
        return score_ms * 1_000_000
    eta = text(attributes, "celery.eta")
    if eta:
        return _iso_ns(eta)
    header = attributes.get("http.request.header.x_request_start")
    if isinstance(header, (list, tuple)) and header:
        header = header[0]
    return request_start_ns(header) if isinstance(header, str) else 0


@lru_cache(maxsize=1024)
def _iso_ns(value: str) -> int:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return 0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def request_start_ns(header: str) -> int:
    """Nanoseconds of an X-Request-Start header in s, ms, µs or ns, with or without `t=`; 0 for anything else."""
    found = re.search(r"\d+(?:\.\d+)?", header)
    if not found:
        return 0
    whole, _, fraction = found.group().partition(".")
    digits = len(whole)
    if not 9 <= digits <= 19:
        return 0
    # 10 digits are seconds, 13 milliseconds, 16 microseconds, 19 nanoseconds (until the year 2286).
    exponent = 9 - max(0, digits - 10)
    nanoseconds = int(whole) * 10**exponent + int((fraction + "0" * 9)[:exponent] or 0)
    return nanoseconds if nanoseconds < 2**63 else 0


def _request_class(
    kind: int, operation_class: OperationClass, attributes: Attributes, origin: ParentOrigin, scope_name: str
) -> RequestClass:
    if kind == Kind.SERVER:
        scheme = text(attributes, "url.scheme", "http.scheme")
        return RequestClass.CONNECTION if scheme in ("ws", "wss") else RequestClass.REQUEST
    if kind == Kind.CONSUMER:
        return RequestClass.REQUEST
    if operation_class in (OperationClass.ASGI, OperationClass.BACKGROUND):
        return RequestClass.NONE
    if origin == ParentOrigin.LOCAL:
        return RequestClass.NONE
    if operation_class == OperationClass.TASK:
        return RequestClass.HOUSEKEEPING if origin == ParentOrigin.ROOT else RequestClass.NONE
    database = operation_class in (
        OperationClass.DATABASE,
        OperationClass.DATABASE_SESSION,
        OperationClass.CACHE,
        OperationClass.POOL,
    )
    if kind in (Kind.CLIENT, Kind.PRODUCER) or database:
        if origin == ParentOrigin.UNKNOWN or origin == ParentOrigin.REMOTE:
            return RequestClass.NONE
        return RequestClass.HOUSEKEEPING if database else RequestClass.CALLER
    return RequestClass.CANDIDATE if origin == ParentOrigin.UNKNOWN else RequestClass.REQUEST


def process_key(resource: Attributes) -> str:
    """Key of the process that a resource stands for: service.instance.id, else host and pid, else empty."""
    instance = text(resource, "service.instance.id")
    if instance:
        return instance
    pid = text(resource, "process.pid")
    host = host_key(resource) or text(resource, "k8s.pod.name", "container.id")
    return f"{host}:{pid}" if pid else text(resource, "k8s.pod.name", "container.id")


def host_key(resource: Attributes) -> str:
    """The machine that a resource ran on, empty where it does not say: clock skew exists between these only."""
    return text(resource, "host.id", "host.name", "k8s.node.name", "host.ip")
