"""OTLP protobuf into batches: many spans at a time where they look as usual, span by span where they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.otlp.columnar import decode_together
from app.otlp.columns import Batch, BatchGroup
from app.otlp.errors import DecodeError
from app.otlp.protobuf_records import decode_by_record


def decode_protobuf(body: bytes) -> Batch:
    """The spans of an ExportTraceServiceRequest. Raises DecodeError where the bytes are none."""
    together = decode_together([body])
    return decode_by_record(body) if together is None else together.batch


def decode_bodies(bodies: Sequence[bytes]) -> BatchGroup:
    """The spans of several requests, which costs less than one by one; a broken body has its error in the group."""
    together = decode_together(bodies)
    return one_by_one(decode_protobuf, bodies) if together is None else together


def one_by_one(decode: Callable[[bytes], Batch], bodies: Sequence[bytes]) -> BatchGroup:
    """The same with a decoder for single bodies."""
    batches: list[Batch] = []
    errors: list[str | None] = []
    for body in bodies:
        try:
            batches.append(decode(body))
            errors.append(None)
        except DecodeError as error:
            errors.append(str(error))
    return BatchGroup.of(batches, errors)
