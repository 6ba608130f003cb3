"""Datasets and settings."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from analysis.errors import NotFound
from app.links import datasets_url
from app.pages.context import Page
from app.settings import rows


async def datasets_page(page: Page) -> Response:
    return page.render("datasets.html", "upload")


async def delete_dataset(page: Page) -> Response:
    """Removes a dataset and goes back to the list."""
    dataset_id = int(page.request.path_params["dataset_id"])
    if dataset_id not in {dataset.dataset_id for dataset in page.view.datasets}:
        raise NotFound(f"there is no dataset {dataset_id}")
    await run_in_threadpool(page.store.delete_dataset, dataset_id)
    return RedirectResponse(datasets_url(page.remaining_scope(dataset_id)), 303)


async def settings_page(page: Page) -> Response:
    return page.render("settings.html", "settings", rows=rows(page.settings))
