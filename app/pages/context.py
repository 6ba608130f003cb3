"""What every page handler needs: the scope of its URL, and analyses run in it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from analysis.errors import NotFound, QueryInterrupted
from analysis.span import Window
from app.links import BadScope, Scope, parse_scope
from app.pages.rendering import View, error_page, render
from app.query import Answer, Queries
from app.settings import Settings
from app.store.base import LIVE, Store, StoreBusy, StoreError

T = TypeVar("T")
_SCOPE_PARAMETERS = frozenset({"dataset", "last", "from", "to"})
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Page:
    """One request for a page, its scope read."""

    request: Request
    view: View
    window: Window
    now_ns: int
    read_at_ns: list[int] = field(default_factory=list)
    """When the spans of each report on the page were read."""

    @property
    def store(self) -> Store:
        store: Store = self.request.app.state.store
        return store

    @property
    def settings(self) -> Settings:
        settings: Settings = self.request.app.state.settings
        return settings

    def parameter(self, name: str) -> str:
        return self.request.query_params.get(name, "")

    def required(self, name: str) -> str:
        """A parameter that may be empty but must be there; raises BadScope."""
        if name not in self.request.query_params:
            raise BadScope(f"“{name}” is missing from the URL")
        return self.request.query_params[name]

    def remaining_scope(self, deleted_id: int) -> Scope:
        """The page's scope, or the live dataset where the page's own is gone."""
        return Scope(LIVE) if self.view.scope.dataset_id == deleted_id else self.view.scope

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """An analysis over the page's dataset and window, off the loop, cached and with a deadline."""
        queries: Queries = self.request.app.state.queries
        scope = self.view.scope
        answer: Answer[T] = await queries.answer(function, scope.dataset_id, self.window, *arguments, moving=scope.last)
        self.read_at_ns.append(answer.as_of_ns)
        return answer.report

    async def render(self, template: str, active: str, status: int = 200, **context: Any) -> HTMLResponse:
        """The page, written in a thread: a waterfall of thousands of rows would hold up the loop."""
        view = replace(self.view, as_of_ns=min(self.read_at_ns, default=0))
        return await run_in_threadpool(render, template, view, active, status, **context)


async def open_page(request: Request) -> Page:
    """Reads the scope; raises BadScope."""
    store: Store = request.app.state.store
    datasets = await run_in_threadpool(store.datasets)
    now_ns = time.time_ns()
    scope = parse_scope(request.query_params, datasets, now_ns)
    dataset = next(dataset for dataset in datasets if dataset.dataset_id == scope.dataset_id)
    window = scope.window(dataset, now_ns)
    carried = tuple(
        (name, value) for name, value in request.query_params.multi_items() if name not in _SCOPE_PARAMETERS
    )
    view = View(scope, dataset, tuple(datasets), window.start_ns, window.end_ns, carried, damage=store.damage())
    return Page(request, view, window, now_ns)


def page(
    path: str, handler: Callable[[Page], Awaitable[Response]], name: str, methods: tuple[str, ...] = ("GET",)
) -> Route:
    """A route whose failures are pages: 400 for what cannot be read, 404, 503 for what took too long."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(await open_page(request))
        except BadScope as error:
            return error_page(
                request, 400, "This address cannot be read", f"{error}.", "Open the overview and go on from there."
            )
        except NotFound as error:
            return error_page(request, 404, "Not found", f"{error}.", "Another dataset or a longer window may hold it.")
        except QueryInterrupted:
            return error_page(
                request,
                503,
                "This took too long",
                "The query was stopped at its time limit.",
                "A shorter window needs less time.",
            )
        except StoreBusy as error:
            return error_page(request, 503, "The store is busy", f"{error}.", "Try again in a moment.")
        except StoreError as error:
            return error_page(request, 500, "The store failed", f"{error}.")

    return Route(path, handle, methods=list(methods), name=name)
