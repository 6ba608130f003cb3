"""How a span ended: status, error type, cancellation and timeout, read from what each instrumentation leaves behind.

What cancelled and timed-out calls look like was observed library by library (OpenTelemetry contrib 0.66b1): a cancelled
httpx call has neither status nor event, SQLAlchemy sets ERROR without a message, asyncpg and redis look like successes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from analysis.attributes import Attributes, number, text
from analysis.span import Kind, Status

INSTRUMENTATION = "opentelemetry.instrumentation."

_TIMEOUT = re.compile(r"timeout|deadline.?exceeded|softtimelimit|timelimitexceeded|timed out", re.IGNORECASE)
_STATUS_IN_MESSAGE = re.compile(r"^(\d{3}), message=")


class Outcome(StrEnum):
    """How a span ended, as far as its own content tells."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class ExceptionEvent:
    """The last `exception` event of a span."""

    type: str
    message: str


def http_status_of(attributes: Attributes, exception: ExceptionEvent | None) -> int:
    status = number(attributes, "http.response.status_code", "http.status_code")
    if status == 0 and exception is not None:
        # aiohttp with raise_for_status leaves the code only in the exception's message: "503, message='...'".
        found = _STATUS_IN_MESSAGE.match(exception.message)
        status = int(found.group(1)) if found else 0
    return status if 100 <= status <= 999 else 0


def error_type_of(
    attributes: Attributes, status: int, status_message: str, http_status: int, exception: ExceptionEvent | None
) -> str:
    explicit = text(attributes, "error.type")
    if explicit:
        return explicit
    if exception is not None and exception.type and (status == Status.ERROR or http_status >= 400):
        return exception.type.rpartition(".")[2]
    if status == Status.ERROR:
        if http_status >= 400:
            return str(http_status)
        grpc = number(attributes, "rpc.grpc.status_code")
        if grpc:
            return f"grpc {grpc}"
        # SQLAlchemy leaves the class only in the status message: "<class 'asyncpg.exceptions.X'>: ...".
        head = status_message.partition(":")[0].strip()
        found = re.match(r"<class '(?:[\w.]*\.)?(\w+)'>$", head)
        if found:
            return found.group(1)
        return head if re.fullmatch(r"[\w.]{1,80}", head) else "error"
    return str(http_status) if http_status >= 500 or http_status == 429 else ""


def outcome_of(
    kind: int,
    scope_name: str,
    status: int,
    status_message: str,
    attributes: Attributes,
    http_status: int,
    error_type: str,
    exception: ExceptionEvent | None,
    has_events: bool,
) -> Outcome:
    exception_type = exception.type if exception else ""
    if "arq.job.try" in attributes and exception_type.rpartition(".")[2] == "Retry":
        return Outcome.ERROR
    if _cancelled(kind, scope_name, status, status_message, attributes, http_status, error_type, exception, has_events):
        return Outcome.CANCELLED
    failed = status == Status.ERROR or http_status >= 500 or http_status == 429
    if attributes.get("celery.state") in ("RETRY", "FAILURE"):
        failed = True
    timed_out = number(attributes, "rpc.grpc.status_code") == 4 or any(
        _TIMEOUT.search(words) for words in (exception_type, error_type, status_message if failed else "") if words
    )
    if timed_out and (failed or exception is not None):
        return Outcome.TIMEOUT
    return Outcome.ERROR if failed else Outcome.OK


def _cancelled(
    kind: int,
    scope_name: str,
    status: int,
    status_message: str,
    attributes: Attributes,
    http_status: int,
    error_type: str,
    exception: ExceptionEvent | None,
    has_events: bool,
) -> bool:
    if attributes.get("asyncio.cancelled") is True:
        return True
    if "CancelledError" in error_type or (exception is not None and "CancelledError" in exception.type):
        return True
    if scope_name == INSTRUMENTATION + "httpx" and kind == Kind.CLIENT:
        # A cancelled httpx call leaves no status code, no status and no event (use_span records Exception only).
        return http_status == 0 and status == Status.UNSET and not has_events
    if scope_name == INSTRUMENTATION + "aiohttp_server" and kind == Kind.SERVER:
        return http_status == 0 and status == Status.UNSET
    if "arq.job.id" in attributes and kind == Kind.SERVER:
        return status == Status.UNSET
    if scope_name == INSTRUMENTATION + "sqlalchemy":
        return status == Status.ERROR and not status_message and not has_events
    return False
