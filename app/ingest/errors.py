"""Why a batch of spans was not taken; receivers turn each into the answer that its protocol asks for."""

from __future__ import annotations


class IngestError(Exception):
    """Base of all; the text is for the sender and says what is wrong and what to do."""


class BadPayload(IngestError):
    """The body cannot be decoded: sending it again will not help (HTTP 400, gRPC INVALID_ARGUMENT)."""


class UnsupportedEncoding(IngestError):
    """An unknown Content-Encoding (HTTP 415, gRPC UNIMPLEMENTED)."""


class PayloadTooLarge(IngestError):
    """More bytes than the limit, before or after decompression (HTTP 413; gRPC RESOURCE_EXHAUSTED, no RetryInfo)."""


class Overloaded(IngestError):
    """Queue full or no room in the store right now (HTTP 503 with Retry-After, gRPC UNAVAILABLE with RetryInfo)."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
