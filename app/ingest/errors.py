"""Why a batch of spans was not taken; receivers turn each into the answer that its protocol asks for."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a request was not stored, as it is counted; the values are labels of metrics and stay as they are."""

    QUEUE_FULL = "queue_full"
    ARRIVING = "too_many_arriving"
    NOT_TAKING = "starting_or_stopping"
    DEADLINE = "deadline"
    NO_ROOM = "no_room"
    STORE_FAILED = "store_failed"
    TOO_LARGE = "too_large"
    BAD_PAYLOAD = "bad_payload"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    UNSUPPORTED_MEDIA = "unsupported_media_type"
    BODY_TIMEOUT = "body_timeout"
    SENDER_LEFT = "sender_left"
    FAILED = "failed"


class IngestError(Exception):
    """Base of all; the text is for the sender and says what is wrong and what to do."""

    reason = Reason.FAILED

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.reason = reason or self.reason


class BadPayload(IngestError):
    """The body cannot be decoded: sending it again will not help (HTTP 400, gRPC INVALID_ARGUMENT)."""

    reason = Reason.BAD_PAYLOAD


class UnsupportedEncoding(IngestError):
    """An unknown Content-Encoding (HTTP 415, gRPC UNIMPLEMENTED)."""

    reason = Reason.UNSUPPORTED_ENCODING


class PayloadTooLarge(IngestError):
    """More bytes than the limit, before or after decompression (HTTP 413; gRPC RESOURCE_EXHAUSTED, no RetryInfo)."""

    reason = Reason.TOO_LARGE


class Overloaded(IngestError):
    """Queue full or no room in the store right now (HTTP 503 with Retry-After, gRPC UNAVAILABLE with RetryInfo)."""

    reason = Reason.QUEUE_FULL

    def __init__(self, message: str, retry_after_s: int, reason: Reason | None = None) -> None:
        super().__init__(message, reason)
        self.retry_after_s = retry_after_s
