"""All pages: path, handler, name."""

from __future__ import annotations

from starlette.routing import Route

from app.pages.compare import compare_page
from app.pages.context import page
from app.pages.data import datasets_page, delete_dataset, settings_page, upload_file, upload_page
from app.pages.endpoint import endpoint_page
from app.pages.fixes import detector_page, fix_page, fixes_page
from app.pages.ingest import ingest_page
from app.pages.overview import open_example, overview_page, send_page
from app.pages.traces import open_trace, trace_page, traces_page
from app.pages.waits import queues_page, retries_page

routes = [
    page("/", overview_page, "overview"),
    page("/endpoint", endpoint_page, "endpoint"),
    page("/queues", queues_page, "queues"),
    page("/retries", retries_page, "retries"),
    page("/fixes", fixes_page, "fixes"),
    page("/fix/{fingerprint}", fix_page, "fix"),
    page("/detectors/{name}", detector_page, "detector"),
    page("/traces", traces_page, "traces"),
    page("/trace", open_trace, "open_trace"),
    page("/compare", compare_page, "compare"),
    page("/trace/{trace_id}", trace_page, "trace"),
    Route("/ingest", ingest_page, name="ingest"),
    page("/send", send_page, "send"),
    page("/example", open_example, "open_example", ("POST",)),
    page("/upload", upload_page, "upload"),
    page("/upload", upload_file, "upload_file", ("POST",)),
    page("/datasets", datasets_page, "datasets"),
    page("/datasets/{dataset_id:int}/delete", delete_dataset, "delete_dataset", ("POST",)),
    page("/settings", settings_page, "settings"),
]
