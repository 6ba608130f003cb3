"""Request bodies decompressed step by step, so that a bomb is stopped at the limit and never unpacked whole."""

from __future__ import annotations

import zlib

import zstandard

from app.ingest.errors import BadPayload, PayloadTooLarge, UnsupportedEncoding

# 8 MiB is what zstd's own documentation asks every decoder to accept; larger windows are memory for the asking.
_ZSTD_WINDOW_BYTES = 8 * 2**20
# A zstd block of 4 bytes may hold 128 KiB: 512 bytes at a time overshoot the limit by 16 MiB at most.
_ZSTD_STEP_BYTES = 512
_STEP_BYTES = 1 << 20


def decompress(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """The body without its Content-Encoding (gzip, deflate, zstd, identity, in any case).

    Raises UnsupportedEncoding, PayloadTooLarge beyond the limit, BadPayload for broken or cut off streams.
    """
    match encoding.strip().lower():
        case "" | "identity":
            unpacked = body
        case "gzip" | "x-gzip":
            unpacked = _gzip(body, limit_bytes)
        case "deflate":
            unpacked = _deflate(body, limit_bytes)
        case "zstd":
            unpacked = _zstd(body, limit_bytes)
        case other:
            raise UnsupportedEncoding(f"unknown Content-Encoding {other[:40]!r}: send gzip, deflate, zstd or none")
    if len(unpacked) > limit_bytes:
        raise too_large(limit_bytes)
    return unpacked


def too_large(limit_bytes: int) -> PayloadTooLarge:
    """The error for a body over the limit."""
    limit = f"{limit_bytes // 2**20} MiB" if limit_bytes >= 2**20 else f"{limit_bytes} bytes"
    return PayloadTooLarge(f"the body is larger than {limit} after decompression: send smaller batches")


def _inflate(body: bytes, wbits: int, limit_bytes: int, unpacked: bytearray) -> bytes:
    """Adds one zlib stream's content to `unpacked`; what follows the stream comes back."""
    stream = zlib.decompressobj(wbits)
    rest = body
    while not stream.eof:
        try:
            unpacked += stream.decompress(rest, _STEP_BYTES)
        except zlib.error as error:
            raise BadPayload(f"the compressed body is broken: {error}") from error
        if len(unpacked) > limit_bytes:
            raise too_large(limit_bytes)
        if not stream.eof and not stream.unconsumed_tail and len(rest) and not stream.unused_data:
            # All input is used; what is still inside comes out without more.
            unpacked += stream.flush(_STEP_BYTES)
            if not stream.eof:
                raise BadPayload("the compressed body is cut off")
        rest = stream.unconsumed_tail
    return stream.unused_data


def _gzip(body: bytes, limit_bytes: int) -> bytes:
    unpacked = bytearray()
    rest = body
    if not rest:
        raise BadPayload("the compressed body is empty")
    # gzip allows several members one after the other, and zeros as padding behind the last.
    while rest.strip(b"\x00"):
        rest = _inflate(rest, 31, limit_bytes, unpacked)
    return bytes(unpacked)


def _deflate(body: bytes, limit_bytes: int) -> bytes:
    if not body:
        raise BadPayload("the compressed body is empty")
    # HTTP's deflate is the zlib format; some senders send the raw stream without its header.
    wrapped = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    unpacked = bytearray()
    rest = _inflate(body, 15 if wrapped else -15, limit_bytes, unpacked)
    if rest:
        raise BadPayload(f"{len(rest)} bytes follow the compressed body")
    return bytes(unpacked)


def _zstd(body: bytes, limit_bytes: int) -> bytes:
    if not body:
        raise BadPayload("the compressed body is empty")
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    unpacked = bytearray()
    stream = decompressor.decompressobj()
    position = 0
    while position < len(body):
        if stream.eof:
            stream = decompressor.decompressobj()
        step = body[position : position + _ZSTD_STEP_BYTES]
        try:
            unpacked += stream.decompress(step)
        except zstandard.ZstdError as error:
            raise BadPayload(f"the compressed body is broken: {error}") from error
        if len(unpacked) > limit_bytes:
            raise too_large(limit_bytes)
        position += len(step) - (len(stream.unused_data) if stream.eof else 0)
    if not stream.eof:
        raise BadPayload("the compressed body is cut off")
    return bytes(unpacked)
