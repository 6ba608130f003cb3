"""One server process: sockets, the application, signals, and a stop that loses nothing it has acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.collecting import collect_seldom
from app.grace import Grace
from app.ingest.freed_memory import keep_freed_memory
from app.main import create_app, running
from app.receivers.http import failure
from app.settings import Settings
from app.slow_clients import Connections, room_for
from app.sockets import bound_sockets, listening_hosts

_KEEP_ALIVE_S = 75
"""Exporters send every 5 s on a kept connection; closing it after uvicorn's 5 s would race with their next batch."""


def set_up_logging() -> None:
    """Warnings and errors to stderr, our own from INFO."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("spanwise").setLevel(logging.INFO)


async def serve(settings: Settings, *, demo: bool, started: Callable[[Settings], None]) -> None:
    """Serves until SIGTERM or SIGINT, then drains; `started` hears the settings with the ports really taken.

    Raises CannotListen and StoreError before anything was taken.
    """
    keep_freed_memory()
    collect_seldom()
    sockets = bound_sockets(listening_hosts(settings.host), settings.http_port)
    try:
        room = room_for(settings.max_connections)
        settings = replace(settings, http_port=sockets[0].getsockname()[1], max_connections=room)
        app = create_app(settings, demo=demo)
        server = _Server(app, settings, app.state.grace, partial(_take_no_more, app))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.end)
        async with running(app):
            started(app.state.settings)
            await server.serve(sockets=sockets)
    finally:
        for each in sockets:
            each.close()


async def _without_room(scope: Scope, receive: Receive, send: Send) -> None:
    message = "Too many connections are open."
    refused = failure(Headers(scope=scope), 503, message, Retry_After="1", Connection="close")
    await refused(scope, receive, send)


def _config(app: ASGIApp, connections: Connections, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=connections.protocol,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.stop_grace_s)),
    )


def _take_no_more(app: Starlette) -> None:
    if ingest := getattr(app.state, "ingest", None):
        ingest.take_no_more()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: those raise the signal again before store and receivers are closed."""

    def __init__(self, app: ASGIApp, settings: Settings, grace: Grace, take_no_more: Callable[[], None]) -> None:
        self._grace = grace
        self._take_no_more = take_no_more
        self._connections = Connections(settings.max_connections, settings.header_timeout_s, app, _without_room)
        super().__init__(_config(app, self._connections, settings))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        """Called every 0.1 s."""
        if counter % 5 == 0:
            self._connections.sweep()
        return await super().on_tick(counter)

    def end(self) -> None:
        """Drains within the grace; ends at once when asked a second time."""
        if self.should_exit:
            self.force_exit = True
            self._grace.end()
        self.should_exit = True
        self._grace.begin()
        # gRPC listens on until connections over HTTP have ended, and shall not take what those may no longer bring.
        self._take_no_more()
