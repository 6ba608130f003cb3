"""The application: what starts and stops in which order, every route, and what stands before them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.api.routes import routes as api_routes
from app.failures import bug, http_failure, refusal
from app.grace import Grace
from app.guards import CancelOnDisconnect, Guard
from app.ingest.demo import load_demo
from app.ingest.ingest import Ingest, IngestLimits
from app.ingest.stats import IngestStats
from app.ingest.uploading import clear_scratch, scratch_folder
from app.measuring.loop_lag import LoopLag
from app.metrics import routes as metrics_routes
from app.pages.rendering import compile_templates
from app.pages.routes import routes as page_routes
from app.query import Queries
from app.receivers.grpc import GrpcReceiver
from app.receivers.http import routes as otlp_routes
from app.resources import asset_folder
from app.self_report import free_bytes
from app.settings import Settings
from app.sockets import listening_hosts
from app.store import open_store
from app.store.base import Store, StoreError
from app.store.connection import Limits, default_limits

_IMPORTS_AT_ONCE = 2
_FAILURE_COUNTS_NS = 60_000_000_000
"""Longer, and a balancer that sends nothing to a server that is not ready would keep it so for ever."""


def create_app(settings: Settings, *, demo: bool = False) -> Starlette:
    """The whole server as one ASGI application; with `demo` the example is loaded unless the store has it.

    `app.state` holds settings, store, ingest, queries and loop_lag while the lifespan is running.
    """
    app = Starlette(
        routes=[*otlp_routes, *api_routes, *metrics_routes, *page_routes, *_own_routes()],
        middleware=[
            Middleware(Guard, allowed_hosts=_hosts(settings), refuse=refusal, bug=bug),
            Middleware(CancelOnDisconnect),
        ],
        exception_handlers={HTTPException: http_failure},
        lifespan=running,
    )
    # Exporters take a redirect for success and lose the spans; and its target would come from the Host header.
    app.router.redirect_slashes = False
    app.state.settings = settings
    app.state.demo = demo
    app.state.grace = Grace(settings.stop_grace_s)
    return app


def _hosts(settings: Settings) -> tuple[str, ...]:
    """Listening on a named address means being asked under it; on all addresses, names must be given."""
    if settings.host in ("0.0.0.0", "::"):
        return settings.allowed_hosts
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    return (*settings.allowed_hosts, own)


@asynccontextmanager
async def running(app: Starlette) -> AsyncIterator[None]:
    """Opens the store and starts what feeds it; stops in reverse, all within one grace.

    Raises StoreError and CannotListen with what is wrong.
    """
    settings: Settings = app.state.settings
    async with AsyncExitStack() as stack:
        store = await asyncio.to_thread(open_store, settings.data, store_limits(settings))
        stack.push_async_callback(asyncio.to_thread, store.close)
        await asyncio.to_thread(clear_scratch, scratch_folder(settings.data))
        limits = IngestLimits(settings.max_body_bytes, settings.ingest_queue_bytes, decoders=settings.decode_processes)
        ingest = Ingest(store, limits)
        stack.push_async_callback(ingest.stop, app.state.grace)
        await asyncio.gather(ingest.start(), asyncio.to_thread(compile_templates))
        queries = Queries(store, settings.query_threads, settings.query_timeout_s)
        stack.push_async_callback(queries.close)
        if app.state.demo:
            await load_demo(store)
        app.state.imports = asyncio.Semaphore(_IMPORTS_AT_ONCE)
        # Two clicks on its button shall not make two of it.
        app.state.loading_example = asyncio.Lock()
        app.state.store, app.state.ingest, app.state.queries = store, ingest, queries
        app.state.loop_lag = LoopLag()
        stack.push_async_callback(_ended, asyncio.create_task(app.state.loop_lag.run()))
        receiver = GrpcReceiver(ingest, settings)
        port = await receiver.start(listening_hosts(settings.host), settings.grpc_port)
        stack.push_async_callback(receiver.stop, app.state.grace)
        app.state.settings = replace(settings, grpc_port=port)
        yield


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancels a task that would run for ever; what it failed with before that is raised here."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def store_limits(settings: Settings) -> Limits:
    """What the database may use: as the settings say, the default where they leave it open."""
    limits = default_limits()
    return replace(
        limits,
        memory_bytes=settings.memory_limit_bytes or limits.memory_bytes,
        checkpoint_bytes=settings.checkpoint_bytes,
        min_free_bytes=settings.min_free_bytes,
    )


class _PlotlyFile(StaticFiles):
    """Plotly's bundle out of its own package, and nothing else of it."""

    def __init__(self) -> None:
        super().__init__(packages=[("plotly", "package_data")])

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path != "plotly.min.js":
            raise HTTPException(404)
        return await super().get_response(path, scope)


def _own_routes() -> list[Route | Mount]:
    return [
        Route("/healthz", healthz, name="healthz"),
        Route("/readyz", readyz, name="readyz"),
        Mount("/plotly", _PlotlyFile(), name="plotly"),
        Mount("/static", StaticFiles(directory=asset_folder("static")), name="static"),
    ]


async def healthz(request: Request) -> Response:
    """The process answers."""
    return JSONResponse({"spanwise": "alive"})


async def readyz(request: Request) -> Response:
    """The store answers and its disk has room; 503 with the reason otherwise."""
    store: Store = request.app.state.store
    settings: Settings = request.app.state.settings
    try:
        async with asyncio.timeout(5):
            await asyncio.to_thread(store.datasets)
            free = await asyncio.to_thread(free_bytes, settings.data)
    except (StoreError, TimeoutError) as error:
        return JSONResponse({"error": f"The store does not answer: {error}", "hint": "See the server's log."}, 503)
    if free < settings.min_free_bytes:
        message = f"Only {free // 2**20} MiB of disk are free."
        return JSONResponse({"error": message, "hint": "Free some disk, or delete a dataset."}, 503)
    stats: IngestStats = request.app.state.ingest.stats()
    if stats.last_error and time.time_ns() - stats.last_error_ns < _FAILURE_COUNTS_NS:
        message = f"The last spans were not stored: {stats.last_error}"
        return JSONResponse({"error": message, "hint": "See the server's log."}, 503)
    return JSONResponse({"spanwise": "ready"})
