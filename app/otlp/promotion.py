"""A span's typed facts for its columns, computed once for spans that differ only in what the facts do not depend on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from analysis.outcomes import ExceptionEvent
from analysis.semantics import ParentOrigin, promote
from app.otlp.attributes import AttributeValue, clean, joined, member
from app.otlp.shapes import Shape

SEMANTIC_KEYS = frozenset(
    """
    arq.job.id arq.job.queue arq.job.score arq.job.try asgi.event.type asyncio.cancelled celery.action celery.eta
    celery.retries celery.state db.name db.namespace db.query.text db.redis.database_index db.statement db.system
    db.system.name error.type grpc.previous_rpc_attempts http.method http.request.header.x_request_start
    http.request.method http.request.resend_count http.resend_count http.response.status_code http.route http.scheme
    http.status_code http.url messaging.destination messaging.destination.name messaging.message.id messaging.system
    net.peer.ip net.peer.name net.peer.port net.sock.peer.addr peer.service rpc.grpc.previous_attempts
    rpc.grpc.status_code rpc.method rpc.service rpc.system rpc.system.name server.address server.port url.full
    url.scheme url.template
    """.split()  # noqa: SIM905 - forty-eight lines otherwise
)
"""Every attribute that `analysis.semantics.promote` reads; a test compares this with its source."""

_MEMO_SIZE = 16_384
# Keys hold names, statements and URLs; with these two numbers the memo stays below about 64 MB, whatever is sent.
_MEMO_KEY_CHARACTERS = 2_000

_memo: dict[tuple[object, ...], Promoted] = {}


class EncodedAttributes(NamedTuple):
    """A span's attributes as they are stored, whole and by member, and the part that its typed facts depend on."""

    text: str
    members: tuple[str, ...]
    semantic: str


def encode_attributes(attributes: Mapping[str, AttributeValue]) -> EncodedAttributes:
    """The attributes' JSON text, its members, and the memo key; texts do not depend on the order of keys."""
    members = {clean(key): member(key, value) for key, value in attributes.items()}
    return EncodedAttributes(joined(members.values()), tuple(members.values()), semantic_key(members))


def semantic_key(members: Mapping[str, str]) -> str:
    """The members (by key, as JSON text) that typed facts depend on; JSON text never holds a bare line break."""
    return "\n".join(sorted([members[key] for key in SEMANTIC_KEYS & members.keys()]))


class Promoted(NamedTuple):
    """A span's typed facts as its columns hold them."""

    endpoint: str
    operation_class: str
    operation: str
    peer: str
    outcome: str
    error_type: str
    http_status: int
    attempt: int
    request_class: str
    ready_ns: int
    message_id: str
    target_hash: int


def promoted(
    kind: int,
    name: str,
    scope_name: str,
    status: int,
    status_message: str,
    origin: ParentOrigin,
    exception: ExceptionEvent | None,
    has_events: bool,
    attributes: Mapping[str, AttributeValue],
    semantic: str,
) -> Promoted:
    """The facts of a span, remembered: `promote` is pure and takes about 20 µs, twice the rest of decoding a span."""
    key = (kind, name, scope_name, status, status_message, origin, exception, has_events, semantic)
    known = _memo.get(key)
    if known is not None:
        return known
    facts = promote(
        kind=kind,
        name=name,
        scope_name=scope_name,
        status=status,
        status_message=status_message,
        attributes=attributes,
        origin=origin,
        exception=exception,
        has_events=has_events,
    )
    found = Promoted(
        clean(facts.endpoint),
        str(facts.operation_class),
        clean(facts.operation),
        clean(facts.peer),
        str(facts.outcome),
        clean(facts.error_type),
        facts.http_status,
        facts.attempt if 0 <= facts.attempt < 2**32 else 0,
        str(facts.request_class),
        facts.ready_ns if 0 <= facts.ready_ns < 2**63 else 0,
        clean(facts.message_id),
        facts.target_hash,
    )
    characters = len(name) + len(status_message) + len(semantic)
    if exception is not None:
        characters += len(exception.type) + len(exception.message)
    if characters <= _MEMO_KEY_CHARACTERS:
        if len(_memo) >= _MEMO_SIZE:
            _memo.clear()
        _memo[key] = found
    return found


def shape_of(
    kind: int,
    origin: str,
    process: tuple[str, str, str, str],
    scope_name: str,
    name: str,
    status: int,
    facts: Promoted,
    resource_id: int,
    scope_id: int,
    flags: int,
    dropped: tuple[int, int, int],
) -> Shape:
    """The row of `columns.SHAPES` for a span; `dropped` counts attributes, events and links."""
    return (
        kind,
        str(origin),
        *process,
        scope_name,
        name,
        *facts[:4],
        status,
        *facts[4:9],
        resource_id,
        scope_id,
        flags,
        *dropped,
    )


def last_exception(events: Iterable[tuple[str, Mapping[str, AttributeValue]]]) -> ExceptionEvent | None:
    """The last `exception` event of a span, from its events' names and attributes in their order."""
    found: ExceptionEvent | None = None
    for name, attributes in events:
        if name == "exception":
            kind, message = attributes.get("exception.type"), attributes.get("exception.message")
            found = ExceptionEvent(
                kind if isinstance(kind, str) else "", message[:1000] if isinstance(message, str) else ""
            )
    return found
