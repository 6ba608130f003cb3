"""What every request passes before a route sees it: Host allow-list, same-origin rule, security headers, last resort.

Pure ASGI: decisions use `scope["path"]` and header bytes, never a URL that was put together from the Host header.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Refuse = Callable[[Request, int, str, str], Response]
_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", re.ASCII)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def host_name(authority: str) -> str | None:
    """The name or bracketed address of `host[:port]` in lower case, None where it is no such thing."""
    found = _HOST.fullmatch(authority)
    return found[1].lower() if found else None


class Guard:
    """Refuses foreign hosts and origins, adds the security headers, turns an exception into a 500 with an id."""

    def __init__(
        self, app: ASGIApp, allowed_hosts: tuple[str, ...], refuse: Refuse, bug: Callable[[Request], Response]
    ) -> None:
        self._app = app
        self._allowed = _LOCAL | {host.lower() for host in allowed_hosts}
        self._refuse = refuse
        self._bug = bug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope, receive)
        try:
            refused = self._refused(request)
            if refused is not None:
                await refused(scope, receive, send_guarded)
            else:
                await self._app(scope, receive, send_guarded)
        except Exception:  # noqa: BLE001 - logged with an id by the answer that is made here
            answer = self._bug(request)
            if not started:
                await answer(scope, receive, send_guarded)

    def _refused(self, request: Request) -> Response | None:
        headers = request.headers
        hosts = headers.getlist("host")
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None or name not in self._allowed:
            shown = repr(hosts[0][:100]) if hosts else "none"
            message = f"This server does not answer under the Host that was asked for ({shown})."
            return self._refuse(request, 421, message, "Use localhost, or name the host in SPANWISE_ALLOWED_HOSTS.")
        if request.method not in _SAFE_METHODS and not _same_origin(headers, hosts[0]):
            message = "Another site asked for this; only Spanwise's own pages and programs may."
            return self._refuse(request, 403, message, "")
        return None


def _same_origin(headers: Headers, host: str) -> bool:
    """Whether a request that changes something comes from our own page or from no page at all.

    Browsers send Origin with every cross-site POST, and Sec-Fetch-Site beside it; programs send neither.
    """
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


class CancelOnDisconnect:
    """Cancels the handler of a GET whose client went away, so that its queries are interrupted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return

        async def handle() -> None:
            await self._app(scope, _never, send)

        handler = asyncio.create_task(handle())
        watcher = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((handler, watcher), return_when=asyncio.FIRST_COMPLETED)
            if not handler.done():
                handler.cancel()
            await asyncio.gather(handler, return_exceptions=True)
            if not handler.cancelled():
                handler.result()
        finally:
            watcher.cancel()
            handler.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _never() -> Message:
    """No GET of ours has a body; a handler that waits for the client to leave waits for its own cancellation."""
    await asyncio.Event().wait()
    raise AssertionError
