"""One failure, said in the words of whoever asked: a Status to OTLP senders, JSON under /api, a page to people."""

from __future__ import annotations

import logging
import uuid
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.pages.rendering import error_page
from app.receivers import http as otlp

_LOG = logging.getLogger("spanwise")
_TITLES = {
    403: "This came from another site",
    404: "There is no such page",
    405: "This page cannot be asked like that",
    421: "This server has other names",
    500: "Something went wrong",
}


def refusal(request: Request, status: int, message: str, hint: str = "") -> Response:
    """The answer for a failed request; shows nothing of the inside."""
    path: str = request.scope["path"]
    if otlp.is_otlp(path, request.headers):
        return otlp.failure(request.headers, status, f"{message} {hint}".strip())
    if path == "/api" or path.startswith(("/api/", "/healthz", "/readyz", "/metrics")):
        return JSONResponse({"error": message, "hint": hint}, status)
    return error_page(request, status, _TITLES.get(status, HTTPStatus(status).phrase), message, hint)


async def http_failure(request: Request, error: Exception) -> Response:
    """Handler for what routing and the framework refuse."""
    assert isinstance(error, HTTPException)
    message, hint = error.detail, ""
    if error.status_code == 404:
        message, hint = "Nothing is at this address.", "Open the overview and go on from there."
        if request.scope["path"].startswith("/api"):
            hint = "GET /api lists what there is."
    elif error.status_code == 405:
        message = f"{request.method} is not defined for this address."
    if otlp.is_otlp(request.scope["path"], request.headers):
        hint = "Traces go to /v1/traces."
    response = refusal(request, error.status_code, message, hint)
    response.headers.update(error.headers or {})
    return response


def bug(request: Request) -> Response:
    """The answer for a failure of our own; call it while the exception is handled, which is logged with an id."""
    number = uuid.uuid4().hex[:12]
    _LOG.exception("bug %s: %s %s", number, request.method, request.scope["path"])
    message = "Spanwise failed on this request."
    return refusal(request, 500, message, f"The server's log has the reason under {number}.")
