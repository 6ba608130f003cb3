"""Whose a request body is that will not be decoded: the first service name in its first bytes.

A full queue is the moment to know the sender and the wrong one to decode: this costs tens of microseconds.
"""

from __future__ import annotations

import json
import re
import zlib
from contextlib import suppress

import zstandard

_IN_BYTES = 4096
_OUT_BYTES = 8192
_ZSTD_WINDOW_BYTES = 8 * 2**20
# KeyValue{key: "service.name", value: AnyValue{string_value}} as every sender lays it out; names of up to 125 bytes.
_PROTOBUF = re.compile(rb"\x0a\x0cservice\.name\x12[\x02-\x7f]\x0a([\x01-\x7d])(.{0,125})", re.DOTALL)
_JSON = re.compile(
    rb'"key"\s{0,8}:\s{0,8}"service\.name"\s{0,8},\s{0,8}"value"\s{0,8}:\s{0,8}\{\s{0,8}"stringValue"\s{0,8}:\s{0,8}'
    rb'("(?:[^"\\]|\\.){1,500}")'
)


def service_glimpsed(body: bytes | bytearray, encoding: str) -> tuple[str, ...]:
    """The first service that the body names, nothing where its beginning does not tell."""
    start = b""
    with suppress(zlib.error, zstandard.ZstdError):
        start = _beginning(body, encoding.strip().lower())
    if found := _PROTOBUF.search(start):
        name = found[2][: found[1][0]].decode("utf-8", "replace")
        return (name,) if len(found[2]) >= found[1][0] else ()
    if found := _JSON.search(start):
        with suppress(ValueError):
            return (str(json.loads(found[1])),)
    return ()


def _beginning(body: bytes | bytearray, encoding: str) -> bytes:
    match encoding:
        case "" | "identity":
            return bytes(body[:_OUT_BYTES])
        case "gzip" | "x-gzip":
            return zlib.decompressobj(31).decompress(body[:_IN_BYTES], _OUT_BYTES)
        case "deflate":
            return zlib.decompressobj(15).decompress(body[:_IN_BYTES], _OUT_BYTES)
        case "zstd":
            decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
            return bytes(decompressor.stream_reader(body).read(_OUT_BYTES))
        case _:
            return b""
