"""The sender of a body that is not decoded, from its first bytes and never from more."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable

import pytest
import zstandard
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.ingest.glimpse import service_glimpsed
from tests.app.test_ingest import document

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "identity": lambda data: data,
    "": lambda data: data,
    " GZIP ": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def protobuf(service: str) -> bytes:
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    for key, value in (("telemetry.sdk.name", "opentelemetry"), ("service.name", service)):
        attribute = resource_spans.resource.attributes.add(key=key)
        attribute.value.string_value = value
    for number in range(2_000):
        resource_spans.scope_spans.add().spans.add(name=f"GET /{number}", trace_id=os.urandom(16))
    return bytes(request.SerializeToString())


@pytest.mark.parametrize("encoding", PACKED)
@pytest.mark.parametrize("service", ["shop", "bestellung-größe", "<b>&\"'", "x" * 125])
def test_both_forms_in_every_encoding(encoding: str, service: str) -> None:
    assert service_glimpsed(PACKED[encoding](protobuf(service)), encoding) == (service,)
    assert service_glimpsed(PACKED[encoding](document(1, 50, service)), encoding) == (service,)


@pytest.mark.parametrize("encoding", [*PACKED, "br"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"\x00" * 100, b"service.name", os.urandom(5_000), protobuf("x" * 200), gzip.compress(b"")]
)
def test_what_does_not_tell_costs_nothing(encoding: str, body: bytes) -> None:
    assert service_glimpsed(body, encoding) == ()


def test_a_name_that_is_cut_off_is_none() -> None:
    whole = protobuf("shop")
    assert service_glimpsed(whole[: whole.index(b"shop") + 2], "") == ()


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(200 * 2**20), 1) + gzip.compress(document(1, 1))
    assert service_glimpsed(bomb, "gzip") == ()
    assert service_glimpsed(zstandard.ZstdCompressor().compress(bytes(200 * 2**20)), "zstd") == ()
