"""HTTP connections with deadlines, bounded heads and a cap, so that slow clients cost only themselves.

uvicorn waits for ever for the end of a head or for a reader, and holds as many connections as are opened. Here what
cannot go on is ended within seconds, and at the cap the connections that do nothing make room for those that do.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import OrderedDict
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LOG = logging.getLogger("spanwise.connections")
_MAX_HEAD_BYTES = 64 * 1024
"""Four times what other servers take: browsers send one localhost's cookies to all of its ports."""
_MAX_FIELDS = 200
_UNREAD_S = 30.0
"""How long an answer may wait for a client that does not read it."""
_CLOSING_S = 2.0
_SHORTEST_RATE_S = 1.0
_HEAD_START_BYTES = 64 * 1024
_OTHER_FILES = 256
_ANSWERED_METHODS = (b"GET", b"HEAD")


class _Phase(Enum):
    FRESH = auto()
    """Nothing was asked yet."""
    IDLE = auto()
    """All that was asked is answered."""
    BODY = auto()
    """The body of a request is on its way, or what is left of one that is answered already."""
    BUSY = auto()
    """A request has arrived whole and is being answered."""
    REFUSED = auto()
    """Refused, and read on for a moment: closed at once, the reason might not reach the client."""
    CLOSING = auto()


class _HeadTooLarge(Exception):
    pass


class Connections:
    """The HTTP connections of one server: `protocol` makes them, `sweep` is to be called every second or more often."""

    def __init__(self, most: int, head_timeout_s: float, app: ASGIApp, without_room: ASGIApp) -> None:
        self.head_timeout_s = head_timeout_s
        self._most = most
        # Where all are busy, a few more are taken: pages are answered, everything else is asked to come again.
        self._reserve = max(8, most // 16)
        self._app = app
        self._without_room = without_room
        self._phases: dict[_Phase, OrderedDict[_Connection, None]] = {phase: OrderedDict() for phase in _Phase}
        self._open = 0

    def protocol(self, **arguments: Any) -> asyncio.Protocol:
        """A new connection, with the arguments that uvicorn gives to its protocols."""
        return _Connection(self, **arguments)

    def sweep(self) -> None:
        """Ends every connection that has had its time."""
        now = asyncio.get_running_loop().time()
        for phase in self._phases.values():
            for connection in list(phase):
                connection.expire(now)

    def opened(self, connection: _Connection) -> None:
        """Counts a new connection; at the cap it takes the place of the one that does least, or is refused."""
        self._open += 1
        if self._open <= self._most:
            return
        slowest = self._slowest(connection)
        if slowest is not None:
            slowest.end(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections are open.", at_once=True)
        elif self._open > self._most + self._reserve:
            connection.end(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections are open.")

    def moved(self, connection: _Connection, before: _Phase | None, phase: _Phase | None) -> None:
        """Keeps each phase in the order in which its connections came to it."""
        if before is not None:
            self._phases[before].pop(connection, None)
            if phase in (None, _Phase.REFUSED, _Phase.CLOSING) and before not in (_Phase.REFUSED, _Phase.CLOSING):
                self._open -= 1
        if phase is not None:
            self._phases[phase][connection] = None

    def app_for(self, method: bytes) -> ASGIApp:
        """The application for a request: one that refuses it where there is no room for it."""
        return self._app if self._open <= self._most or method in _ANSWERED_METHODS else self._without_room

    def _slowest(self, newcomer: _Connection) -> _Connection | None:
        for phase in (_Phase.FRESH, _Phase.IDLE):
            oldest = next(iter(self._phases[phase]), None)
            if oldest is not None and oldest is not newcomer:
                return oldest
        now = asyncio.get_running_loop().time()
        return min(self._phases[_Phase.BODY], key=lambda one: one.bytes_per_second(now), default=None)


class _Connection(HttpToolsProtocol):
    """uvicorn's connection, and how far its client has got."""

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._connections = connections
        self._phase: _Phase | None = None
        self._since = 0.0
        self._in_head = True
        self._begun = False
        """Whether the first line of the present head began in the data that is being read."""
        self._asked = 0
        self._head_since: float | None = None
        self._head_bytes = self._field_bytes = self._fields = 0
        self._too_large = False
        self._body_bytes = 0
        self._unread_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._enter(_Phase.FRESH)
        self._connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.moved(self, self._phase, None)
        self._phase = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ended():
            return
        asked = self._asked
        self._begun = False
        super().data_received(data)
        if self._ended() or not self._in_head or (self._asked != asked and not self._begun):
            return
        if self._head_since is None:
            self._head_since = self.loop.time()
        if self._asked == asked:
            # Complete fields are counted one by one; this is for one that does not end.
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._too_large = True
                self.send_400_response("")

    def _ended(self) -> bool:
        return self._phase in (None, _Phase.REFUSED, _Phase.CLOSING)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = True

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        self._fields += 1
        # Trailers come when the application has the head already, and must not change it.
        if self._in_head:
            super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._field_bytes += size
        if self._field_bytes > _MAX_HEAD_BYTES or self._fields >= _MAX_FIELDS:
            self._too_large = True
            raise _HeadTooLarge

    def on_headers_complete(self) -> None:
        self.app = self._connections.app_for(self.parser.get_method())
        super().on_headers_complete()
        self._in_head = False
        self._head_since = None
        self._head_bytes = self._body_bytes = 0
        self._enter(_Phase.BODY)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True
        self._begun = False
        self._asked += 1
        self._field_bytes = self._fields = 0
        self._enter(_Phase.IDLE if self.cycle.response_complete else _Phase.BUSY)

    def on_response_complete(self) -> None:
        pipelined = bool(self.pipeline)
        super().on_response_complete()
        if not pipelined and not self.transport.is_closing():
            self._enter(_Phase.IDLE if self._in_head else _Phase.BODY)

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._head_since = self._head_since or self.loop.time()
        if self._too_large:
            message = f"The head is larger than {_MAX_HEAD_BYTES} bytes or has more than {_MAX_FIELDS} fields."
            self.end(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)
        else:
            self.end(HTTPStatus.BAD_REQUEST, msg)

    def bytes_per_second(self, now: float) -> float:
        """How fast the body comes; each has a start, so that the youngest is not the slowest."""
        return (self._body_bytes + _HEAD_START_BYTES) / (now - self._since + _SHORTEST_RATE_S)

    def expire(self, now: float) -> None:
        """Ends the connection where its deadline has passed."""
        age_s = now - self._since
        if self.transport.is_closing():
            if self._phase is not _Phase.CLOSING:
                self._enter(_Phase.CLOSING)
            elif age_s > _CLOSING_S:
                self.transport.abort()
        elif self._unread_since is not None and now - self._unread_since > _UNREAD_S:
            self.transport.abort()
        elif self._phase is _Phase.REFUSED:
            if age_s > _CLOSING_S:
                self.transport.abort()
        elif self._phase is _Phase.BODY:
            if self.cycle.response_complete and age_s > self._connections.head_timeout_s:
                self.transport.close()
        elif self._phase is _Phase.FRESH or (self._phase is _Phase.IDLE and self._head_since is not None):
            if self._phase is _Phase.IDLE and self._head_since is not None:
                age_s = min(age_s, now - self._head_since)
            if age_s > self._connections.head_timeout_s:
                wanted_s = f"{self._connections.head_timeout_s:g} s"
                self.end(HTTPStatus.REQUEST_TIMEOUT, f"The head of the request did not arrive within {wanted_s}.")
        elif self._phase is _Phase.IDLE and age_s > self.timeout_keep_alive:
            self.transport.close()

    def end(self, status: HTTPStatus, message: str, *, at_once: bool = False) -> None:
        """Says why where a client waits for an answer that has not begun, and lets the connection go."""
        self._unset_keepalive_if_required()
        answering = self.cycle is not None and not self.cycle.response_complete
        if not self.cycle.response_started if answering else self._head_since is not None:
            lines = [
                f"HTTP/1.1 {status.value} {status.phrase}",
                "content-type: text/plain; charset=utf-8",
                f"content-length: {len(message)}",
                *(["retry-after: 1"] if status == HTTPStatus.SERVICE_UNAVAILABLE else []),
                "connection: close",
            ]
            self.transport.write("\r\n".join((*lines, "", message)).encode("ascii"))
        else:
            at_once = True
        if answering:
            # What the application still says is no answer any more, and it need not wait for more of the body.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not at_once and self.transport.can_write_eof():
            self.transport.write_eof()
            self._enter(_Phase.REFUSED)
            return
        self._enter(_Phase.CLOSING)
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _enter(self, phase: _Phase) -> None:
        if self._phase in (_Phase.REFUSED, _Phase.CLOSING) and phase is not _Phase.CLOSING:
            return
        self._connections.moved(self, self._phase, phase)
        self._phase = phase
        self._since = self.loop.time()


def room_for(wanted: int) -> int:
    """So many connections on each of two ports, or fewer where the limit on open files cannot be raised for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    needed = 2 * wanted + _OTHER_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = min(wanted, max(8, (soft - _OTHER_FILES) // 2))
    if room < wanted:
        _LOG.warning("the limit on open files (%d) leaves room for %d connections on each port", soft, room)
    return room
