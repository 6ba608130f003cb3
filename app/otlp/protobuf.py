"""OTLP protobuf into batches: many spans at a time where they look as usual, span by span where they do not."""

from __future__ import annotations

from app.otlp.columnar import decode_together
from app.otlp.columns import Batch
from app.otlp.protobuf_records import add_protobuf_request, decode_by_record

__all__ = ["add_protobuf_request", "decode_protobuf"]


def decode_protobuf(body: bytes) -> Batch:
    """The spans of an ExportTraceServiceRequest. Raises DecodeError where the bytes are none."""
    together = decode_together([body])
    return decode_by_record(body) if together is None else together.batch
