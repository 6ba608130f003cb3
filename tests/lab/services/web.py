"""How the shop makes its applications."""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

from tests.lab.services import truth
from tests.lab.services.environment import LEAN

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def new_app(lifespan: Lifespan) -> FastAPI:
    """Make an application that writes the service's counts when it stops.

    A lean run leaves out the spans of single ASGI messages: the instrumentor has an argument for it, but no
    environment variable, so there the application is instrumented by the documented call instead of from outside.
    """

    @asynccontextmanager
    async def whole_life(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            # A full collection over all imported modules stops the loop for 70 to 90 ms; frozen, they are left alone.
            gc.collect()
            gc.freeze()
            yield
        truth.write()

    app = FastAPI(lifespan=whole_life)
    if LEAN:
        FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"])
    return app
