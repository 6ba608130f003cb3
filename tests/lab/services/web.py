"""How the shop makes its applications."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

from tests.lab.services.environment import LEAN

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def new_app(lifespan: Lifespan) -> FastAPI:
    """Make an application.

    A lean run leaves out the spans of single ASGI messages: the instrumentor has an argument for it, but no
    environment variable, so there the application is instrumented by the documented call instead of from outside.
    """
    app = FastAPI(lifespan=lifespan)
    if LEAN:
        FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"])
    return app
