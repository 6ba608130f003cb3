"""The JSON API: reports, datasets, uploads, and what a page polls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from analysis.errors import NotFound, QueryInterrupted
from app.api.encoding import failed, json_answer
from app.api.operations import OPERATIONS, Operation
from app.ingest.importing import ImportRefused
from app.ingest.stats import IngestStats
from app.ingest.uploading import UploadRefused, upload_to_dataset
from app.links import BadScope, Scope, overview_url, parse_scope
from app.query import Queries
from app.self_report import self_report
from app.store.base import LIVE, Store, StoreBusy, StoreError

Handler = Callable[[Request], Awaitable[Response]]


def _route(path: str, handler: Handler, method: str = "GET") -> Route:
    """A route whose failures are JSON: 400 for what cannot be read, 404, 413, 503 for what took too long."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except BadScope as error:
            return failed(400, f"{error}.")
        except UploadRefused as error:
            return failed(error.status, str(error), error.hint)
        except ImportRefused as error:
            place = f" ({error.place})" if error.place else ""
            return failed(400, f"{error.message}{place}", error.hint or "Nothing was imported.")
        except NotFound as error:
            return failed(404, f"{error}.", "Another dataset or a longer window may hold it.")
        except QueryInterrupted:
            return failed(503, "The query was stopped at its time limit.", "A shorter window needs less time.")
        except StoreBusy as error:
            answer = failed(503, str(error), "Try again in a moment.")
            answer.headers["Retry-After"] = "2"
            return answer
        except StoreError as error:
            return failed(500, str(error))

    return Route(path, handle, methods=[method], name=f"{method} {path}")


def _report_route(operation: Operation) -> Route:
    async def report(request: Request) -> Response:
        store: Store = request.app.state.store
        queries: Queries = request.app.state.queries
        arguments = operation.arguments(request.query_params)
        datasets = await asyncio.to_thread(store.datasets)
        now_ns = time.time_ns()
        scope = parse_scope(request.query_params, datasets, now_ns)
        dataset = next(each for each in datasets if each.dataset_id == scope.dataset_id)
        window = scope.window(dataset, now_ns)
        found = await queries.run(operation.function, scope.dataset_id, window, *arguments)
        answer = {"dataset": scope.dataset_id, "start_ns": window.start_ns, "end_ns": window.end_ns, "report": found}
        return await asyncio.to_thread(json_answer, answer)

    return _route(operation.path, report)


async def list_datasets(request: Request) -> Response:
    store: Store = request.app.state.store
    datasets = await asyncio.to_thread(store.datasets)
    return json_answer({"datasets": [{**vars(each), "tally": each.tally.to_json()} for each in datasets]})


async def delete_dataset(request: Request) -> Response:
    store: Store = request.app.state.store
    dataset_id = request.path_params["dataset_id"]
    if all(each.dataset_id != dataset_id for each in await asyncio.to_thread(store.datasets)):
        raise NotFound(f"there is no dataset {dataset_id}")
    await asyncio.to_thread(store.delete_dataset, dataset_id)
    return json_answer({"deleted": dataset_id})


async def status(request: Request) -> Response:
    """What the page for senders polls until the first span is there."""
    store: Store = request.app.state.store
    live = next(each for each in await asyncio.to_thread(store.datasets) if each.dataset_id == LIVE)
    stats: IngestStats = request.app.state.ingest.stats()
    answer = {
        "live_spans": live.span_count,
        "version": store.version(LIVE),
        "other_signal_requests": stats.other_signal_requests,
        "other_signal_items": stats.other_signal_items,
    }
    return json_answer(answer)


async def ingest(request: Request) -> Response:
    """What the ingest page and `/metrics` show."""
    report = await self_report(request.app.state)
    return await asyncio.to_thread(json_answer, report)


async def upload(request: Request) -> Response:
    dataset = await upload_to_dataset(request)
    counts = dataset.tally.to_json()
    answer = {
        "dataset": dataset.dataset_id,
        "name": dataset.name,
        "format": dataset.format,
        "spans": dataset.span_count,
        "traces": dataset.trace_count,
        "duplicates": dataset.tally.duplicates,
        "rejected": [vars(each) for each in dataset.tally.rejected],
        "unreadable": [vars(each) for each in dataset.tally.unreadable],
        "warnings": counts["warnings"],
        "url": overview_url(Scope(dataset.dataset_id)),
    }
    return json_answer(answer, 201)


async def index(request: Request) -> Response:
    """Every path of the API, with what it takes and gives."""
    scope = ["dataset", "last", "from", "to"]
    reports = [
        {"method": "GET", "path": each.path, "parameters": [*each.parameters, *scope], "summary": each.summary}
        for each in OPERATIONS
    ]
    own = [{"method": method, "path": path, "summary": summary} for method, path, summary in _OWN]
    return json_answer({"operations": [*own, *reports]})


_OWN = (
    ("GET", "/api/status", "How many live spans there are, and how much of metrics and logs came and was not kept."),
    ("GET", "/api/ingest", "What was received, stored and refused, how long it took; event loop, queries, store."),
    ("GET", "/api/datasets", "All datasets with their counts."),
    ("DELETE", "/api/datasets/{dataset_id}", "Removes a dataset; the live one is emptied."),
    ("POST", "/api/upload", "Imports a file, a form's field “file” or the raw body with ?name=, as a dataset."),
)

routes = [
    _route("/api", index),
    _route("/api/status", status),
    _route("/api/ingest", ingest),
    _route("/api/datasets", list_datasets),
    _route("/api/datasets/{dataset_id:int}", delete_dataset, "DELETE"),
    _route("/api/upload", upload, "POST"),
    *(_report_route(operation) for operation in OPERATIONS),
]
