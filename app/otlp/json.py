"""OTLP JSON into batches: many spans at a time where they look as usual, span by span where they do not."""

from __future__ import annotations

from collections.abc import Sequence

from app.otlp.columnar import decode_together
from app.otlp.columns import Batch, BatchGroup
from app.otlp.json_records import decode_json_by_record
from app.otlp.json_wire import protobuf_of
from app.otlp.protobuf import one_by_one


def decode_json(body: bytes) -> Batch:
    """The spans of an ExportTraceServiceRequest in JSON. Raises DecodeError where the bytes are none."""
    together = _together([body])
    return decode_json_by_record(body) if together is None else together.batch


def decode_json_bodies(bodies: Sequence[bytes]) -> BatchGroup:
    """The spans of several requests; a broken body has its error in the group."""
    together = _together(bodies)
    return one_by_one(decode_json, bodies) if together is None else together


def _together(bodies: Sequence[bytes]) -> BatchGroup | None:
    encoded = []
    for body in bodies:
        wire = protobuf_of(body)
        if wire is None:
            return None
        encoded.append(wire)
    return decode_together(encoded)
