"""Answers of the OTLP receivers: `google.rpc.Status` for failures, the export response for what was taken.

Every answer stays below 8 KiB, because exporters must not have to read more (OTLP 1.11, "Response size").
"""

from __future__ import annotations

import json

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from app.otlp.columns import Rejection, Tally

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
_MESSAGE_BYTES = 1024
_REASONS = 5


def cut(text: str, limit_bytes: int = _MESSAGE_BYTES) -> str:
    """The text as valid UTF-8 of at most so many bytes; what was left out shows as an ellipsis."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit_bytes:
        return encoded.decode()
    return encoded[: limit_bytes - 3].decode("utf-8", "ignore") + "…"


def status(code: int, message: str, *, field: str = "", retry_after_s: int = 0) -> Status:
    """A Status; `field` adds a BadRequest detail, `retry_after_s` a RetryInfo."""
    answer = Status(code=code, message=cut(message))
    if field:
        violation = BadRequest.FieldViolation(field=field, description=cut(message))
        answer.details.append(_packed(BadRequest(field_violations=[violation])))
    if retry_after_s:
        answer.details.append(_packed(retry_info(retry_after_s)))
    return answer


def retry_info(retry_after_s: int) -> RetryInfo:
    return RetryInfo(retry_delay=Duration(seconds=retry_after_s))


def _packed(message: BadRequest | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def status_body(answer: Status, media_type: str) -> bytes:
    """The Status in the encoding of a request; JSON where that was neither of the two."""
    if media_type.endswith("protobuf"):
        return bytes(answer.SerializeToString())
    body: dict[str, object] = {"code": answer.code, "message": answer.message}
    details = [_detail(detail) for detail in answer.details]
    if details:
        body["details"] = details
    return json.dumps(body).encode()


def _detail(detail: Any) -> dict[str, object]:
    if detail.Is(RetryInfo.DESCRIPTOR):
        retry = RetryInfo()
        detail.Unpack(retry)
        return {"@type": detail.type_url, "retryDelay": f"{retry.retry_delay.seconds}s"}
    bad = BadRequest()
    detail.Unpack(bad)
    violations = [{"field": each.field, "description": each.description} for each in bad.field_violations]
    return {"@type": detail.type_url, "fieldViolations": violations}


def export_response(tally: Tally) -> ExportTraceServiceResponse:
    """Unset partial success when all was taken as sent; else the refused spans and why, or a warning alone."""
    reasons = [
        f"{each.count} × {each.reason}" + (f" (first: {each.first})" if each.first else "") for each in _most(tally)
    ]
    more = len(tally.rejected) + len(tally.unreadable) - len(reasons)
    if more > 0:
        reasons.append(f"and {more} more reasons")
    message = "; ".join((*reasons, *tally.warnings[:_REASONS]))
    if not message:
        return ExportTraceServiceResponse()
    return ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=tally.rejected_count, error_message=cut(message))
    )


def not_kept_response() -> ExportTraceServiceResponse:
    """What metrics and logs get: an empty response, which is the same in all signals.

    To say here that they are not kept, as a warning or as refused items, would make every SDK and Collector log a line
    for each export, every few seconds for as long as the service lives. The page on ingest says it once.
    """
    return ExportTraceServiceResponse()


def _most(tally: Tally) -> list[Rejection]:
    every = tally.rejected + tally.unreadable
    return sorted(every, key=lambda each: -each.count)[:_REASONS]


def export_body(response: ExportTraceServiceResponse, media_type: str) -> bytes:
    """The response in the encoding of the request; 64-bit integers are strings in JSON (proto3 JSON mapping)."""
    if media_type.endswith("protobuf"):
        return bytes(response.SerializeToString())
    if not response.HasField("partial_success"):
        return b"{}"
    partial = response.partial_success
    body: dict[str, object] = {"errorMessage": partial.error_message}
    if partial.rejected_spans:
        body["rejectedSpans"] = str(partial.rejected_spans)
    return json.dumps({"partialSuccess": body}).encode()


__all__ = [
    "JSON",
    "PROTOBUF",
    "Code",
    "cut",
    "export_body",
    "export_response",
    "not_kept_response",
    "retry_info",
    "status",
    "status_body",
]
