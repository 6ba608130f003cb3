"""One server process: sockets, the application, signals, and a stop that loses nothing it has acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace

import uvicorn
from starlette.applications import Starlette

from app.grace import Grace
from app.ingest.freed_memory import keep_freed_memory
from app.main import create_app, running
from app.settings import Settings
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
    sockets = bound_sockets(listening_hosts(settings.host), settings.http_port)
    try:
        settings = replace(settings, http_port=sockets[0].getsockname()[1])
        app = create_app(settings, demo=demo)
        server = _Server(_config(app, settings), app)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.end)
        async with running(app):
            started(app.state.settings)
            await server.serve(sockets=sockets)
    finally:
        for each in sockets:
            each.close()


def _config(app: object, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        loop="asyncio",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.stop_grace_s)),
    )


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: those raise the signal again before store and receivers are closed."""

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._app = app

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def end(self) -> None:
        """Drains within the grace; ends at once when asked a second time."""
        grace: Grace = self._app.state.grace
        if self.should_exit:
            self.force_exit = True
            grace.end()
        self.should_exit = True
        grace.begin()
        # gRPC listens on until connections over HTTP have ended, and shall not take what those may no longer bring.
        if ingest := getattr(self._app.state, "ingest", None):
            ingest.take_no_more()
