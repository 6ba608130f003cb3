"""OTLP over HTTP: `POST /v1/traces`, protobuf and JSON by Content-Type, one Status body for every failure.

A 200 means committed; to metrics and logs, which are not kept yet, it means understood and counted. Nothing here ever
redirects: exporters take a 3xx for success and lose the spans.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.ingest.decoding import Media
from app.ingest.errors import BadPayload, IngestError, Overloaded, PayloadTooLarge, Reason, UnsupportedEncoding
from app.ingest.glimpse import service_glimpsed
from app.ingest.ingest import Ingest
from app.otlp.other_signals import OtherSignal
from app.receivers.status import (
    JSON,
    PROTOBUF,
    Code,
    cut,
    export_body,
    export_response,
    not_kept_response,
    status,
    status_body,
)
from app.settings import Settings

_LOG = logging.getLogger("spanwise.receivers")
_MEDIA = {PROTOBUF: "protobuf", "application/protobuf": "protobuf", JSON: "json"}
_COMMIT_TIMEOUT_S = 8.0
"""Below the 10 s after which exporters give up by default: they shall hear "try again" instead of nothing."""
_RETRY_AFTER_S = 2
_CODES: dict[int, int] = {
    HTTPStatus.BAD_REQUEST: Code.INVALID_ARGUMENT,
    HTTPStatus.FORBIDDEN: Code.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: Code.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED: Code.UNIMPLEMENTED,
    HTTPStatus.REQUEST_TIMEOUT: Code.DEADLINE_EXCEEDED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Code.RESOURCE_EXHAUSTED,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: Code.INVALID_ARGUMENT,
    HTTPStatus.MISDIRECTED_REQUEST: Code.PERMISSION_DENIED,
    HTTPStatus.INTERNAL_SERVER_ERROR: Code.INTERNAL,
    HTTPStatus.SERVICE_UNAVAILABLE: Code.UNAVAILABLE,
}


def is_otlp(path: str, headers: Headers) -> bool:
    """Whether a sender asks, not a person: failures are Status bodies then.

    Protobuf on any path is one whose endpoint lacks `/v1/traces`, the commonest slip in setting an exporter up.
    """
    return path.startswith(("/v1/", "/v1development/")) or media_type(headers) in (PROTOBUF, "application/protobuf")


def media_type(headers: Headers) -> str:
    """The Content-Type without parameters, in lower case."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def failure(headers: Headers, http_status: int, message: str, **more: str) -> Response:
    """A Status answer in the encoding of the request, JSON where that is unknown; `more` are further headers."""
    sent = media_type(headers)
    answer_type = sent if sent in _MEDIA else JSON
    field = "body" if http_status == HTTPStatus.BAD_REQUEST else ""
    retry_after_s = int(more.get("Retry_After", 0))
    answer = status(_CODES.get(http_status, Code.UNKNOWN), message, field=field, retry_after_s=retry_after_s)
    extra = {name.replace("_", "-"): value for name, value in more.items()}
    return Response(status_body(answer, answer_type), http_status, extra, answer_type)


_OTHER_SIGNALS: dict[str, OtherSignal] = {"/v1/metrics": "metrics", "/v1/logs": "logs"}
_NotStored = Callable[[Reason, str, Sequence[str]], None]


def _uncounted(_reason: Reason, _message: str, _services: Sequence[str]) -> None:
    """Refused metrics and logs do not count: the numbers of refused requests are of traces."""


class Receiver:
    """The endpoint for all signals, as an ASGI application so that every method gets here."""

    def __init__(self) -> None:
        self._receiving_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        except Exception:  # noqa: BLE001 - every sender is answered in OTLP's words
            bug = uuid.uuid4().hex[:12]
            _LOG.exception("bug %s while receiving by %s", bug, scope["path"])
            response = failure(request.headers, 500, f"Spanwise failed on this request; its log has it under {bug}.")
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        headers = request.headers
        other_signal = _OTHER_SIGNALS.get(request.scope["path"].rstrip("/"))
        if request.method != "POST":
            message = f"{request.method} is not defined here: send {other_signal or 'traces'} by POST."
            return failure(headers, HTTPStatus.METHOD_NOT_ALLOWED, message, Allow="POST")
        ingest: Ingest = request.app.state.ingest
        not_stored = _uncounted if other_signal else ingest.not_stored
        sent = media_type(headers)
        if sent not in _MEDIA:
            shown = f"Content-Type {cut(sent, 100)!r} is not understood" if sent else "The Content-Type is missing"
            not_stored(Reason.UNSUPPORTED_MEDIA, shown, ())
            return failure(headers, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"{shown}: send {PROTOBUF} or {JSON}.")
        settings: Settings = request.app.state.settings
        try:
            body = await self._body(request, settings, not_stored)
            media: Media = "json" if sent == JSON else "protobuf"
            encoding = headers.get("content-encoding", "")
            if other_signal:
                await ingest.other_signals.submit(
                    other_signal, body, media=media, encoding=encoding, timeout_s=_COMMIT_TIMEOUT_S
                )
                return Response(export_body(not_kept_response(), sent), media_type=sent)
            tally = await ingest.submit(body, media=media, encoding=encoding, timeout_s=_COMMIT_TIMEOUT_S)
        except BadPayload as error:
            return failure(headers, HTTPStatus.BAD_REQUEST, str(error))
        except UnsupportedEncoding as error:
            known = "gzip, deflate, zstd"
            return failure(headers, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, str(error), Accept_Encoding=known)
        except PayloadTooLarge as error:
            return failure(headers, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))
        except Overloaded as error:
            retry_after_s = min(max(error.retry_after_s, 1), 3)
            return failure(headers, HTTPStatus.SERVICE_UNAVAILABLE, str(error), Retry_After=str(retry_after_s))
        except IngestError as error:
            _LOG.error("%s were not taken: %s", other_signal or "traces", error)
            return failure(headers, HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        except TimeoutError:
            message = f"The body did not arrive within {settings.body_timeout_s:g} s."
            return failure(headers, HTTPStatus.REQUEST_TIMEOUT, message, Connection="close")
        return Response(export_body(export_response(tally), sent), media_type=sent)

    async def _body(self, request: Request, settings: Settings, not_stored: _NotStored) -> bytes:
        """The whole body; raises TimeoutError, and before more is held than may be, PayloadTooLarge or Overloaded."""
        too_large = PayloadTooLarge(
            f"The body is larger than {settings.max_body_bytes} bytes: send smaller batches "
            "(OTEL_BSP_MAX_EXPORT_BATCH_SIZE) or raise SPANWISE_MAX_BODY_BYTES."
        )
        declared = request.headers.get("content-length", "")
        body = bytearray()
        try:
            if declared.isdecimal() and (len(declared) > 18 or int(declared) > settings.max_body_bytes):
                raise too_large
            async with asyncio.timeout(settings.body_timeout_s):
                async for chunk in request.stream():
                    body += chunk
                    self._receiving_bytes += len(chunk)
                    if len(body) > settings.max_body_bytes:
                        raise too_large
                    # A body that is alone always fits: the limit on one body is another one.
                    if self._receiving_bytes > max(settings.ingest_queue_bytes, len(body)):
                        raise Overloaded("too many bodies are arriving at once", _RETRY_AFTER_S, Reason.ARRIVING)
            return bytes(body)
        except IngestError as error:
            encoding = request.headers.get("content-encoding", "")
            not_stored(error.reason, str(error), service_glimpsed(body, encoding))
            raise
        except TimeoutError:
            not_stored(Reason.BODY_TIMEOUT, f"the body did not arrive within {settings.body_timeout_s:g} s", ())
            raise
        except ClientDisconnect:
            not_stored(Reason.SENDER_LEFT, "the sender left before the body was complete", ())
            raise
        finally:
            self._receiving_bytes -= len(body)


def _both(path: str, endpoint: Receiver, name: str) -> list[Route]:
    """With and without a slash at the end: neither may redirect to the other."""
    return [Route(path, endpoint, name=name), Route(path + "/", endpoint, name=f"{name}_slash")]


# One for all, so that bodies that are arriving are bounded together.
_receiver = Receiver()
routes = [
    *_both("/v1/traces", _receiver, "otlp_traces"),
    *_both("/v1/metrics", _receiver, "otlp_metrics"),
    *_both("/v1/logs", _receiver, "otlp_logs"),
]
