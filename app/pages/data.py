"""Upload, datasets and settings."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from analysis.errors import NotFound
from app.formats.base import ImportRefused
from app.formats.registry import formats
from app.ingest.uploading import UploadRefused, upload_to_dataset
from app.links import Scope, datasets_url, overview_url, upload_url
from app.pages.context import Page
from app.settings import rows
from app.store.base import Dataset


@dataclass(frozen=True)
class Failure:
    """Why nothing was imported."""

    message: str
    hint: str


async def upload_page(page: Page) -> Response:
    return await _form(page, None, 200)


async def upload_file(page: Page) -> Response:
    """Imports the file of the form and goes on to what it holds, or to what of it was refused."""
    try:
        dataset = await upload_to_dataset(page.request)
    except UploadRefused as error:
        return await _form(page, Failure(str(error), error.hint), error.status)
    except ImportRefused as error:
        place = f" ({error.place})" if error.place else ""
        return await _form(page, Failure(f"{error.message}{place}", error.hint), 400)
    return RedirectResponse(_after(dataset), 303)


def _after(dataset: Dataset) -> str:
    scope = Scope(dataset.dataset_id)
    tally = dataset.tally
    return datasets_url(scope) if tally.rejected or tally.unreadable else overview_url(scope)


async def _form(page: Page, failure: Failure | None, status: int) -> Response:
    return await page.render(
        "upload.html",
        "upload",
        status,
        failure=failure,
        action=upload_url(page.view.scope),
        formats=sorted(known.NAME for known in formats()),
    )


async def datasets_page(page: Page) -> Response:
    return await page.render("datasets.html", "upload")


async def delete_dataset(page: Page) -> Response:
    """Removes a dataset and goes back to the list."""
    dataset_id = int(page.request.path_params["dataset_id"])
    if dataset_id not in {dataset.dataset_id for dataset in page.view.datasets}:
        raise NotFound(f"there is no dataset {dataset_id}")
    await run_in_threadpool(page.store.delete_dataset, dataset_id)
    return RedirectResponse(datasets_url(page.remaining_scope(dataset_id)), 303)


async def settings_page(page: Page) -> Response:
    return await page.render("settings.html", "settings", rows=rows(page.settings))
