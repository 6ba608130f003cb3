"""Bodies are unpacked step by step: bombs stop at the limit, broken and cut off streams are refused."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from app.ingest.decompress import decompress
from app.ingest.errors import BadPayload, IngestError, PayloadTooLarge, UnsupportedEncoding

LIMIT = 1_000_000


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def zstd_without_size(data: bytes) -> bytes:
    packer = zstandard.ZstdCompressor(write_content_size=False)
    return packer.compress(data)


PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("GZIP", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("zstd", zstandard.ZstdCompressor().compress),
    ("zstd", zstd_without_size),
]
packers = pytest.mark.parametrize(("encoding", "pack"), PACKERS)


@packers
def test_unpacked_is_what_was_packed(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    for data in (b"", b"x", bytes(range(256)) * 3000):
        assert decompress(pack(data), encoding, LIMIT) == data


def test_identity() -> None:
    for encoding in ("", "identity", " Identity "):
        assert decompress(b"abc", encoding, 3) == b"abc"
    with pytest.raises(PayloadTooLarge):
        decompress(b"abcd", "identity", 3)


@packers
def test_exactly_the_limit_fits_and_one_byte_more_does_not(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    assert len(decompress(pack(b"a" * LIMIT), encoding, LIMIT)) == LIMIT
    with pytest.raises(PayloadTooLarge, match="larger than"):
        decompress(pack(b"a" * (LIMIT + 1)), encoding, LIMIT)


@packers
def test_a_bomb_stops_at_the_limit(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(200_000_000))
    with pytest.raises(PayloadTooLarge):
        decompress(bomb, encoding, LIMIT)


@packers
def test_a_cut_off_stream_is_refused(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    whole = pack(bytes(range(256)) * 40)
    for tenth in range(10):
        with pytest.raises(BadPayload):
            decompress(whole[: len(whole) * tenth // 10], encoding, LIMIT)
    with pytest.raises(BadPayload):
        decompress(whole[:-1], encoding, LIMIT)


def test_several_members_are_read_as_one() -> None:
    assert decompress(gzip.compress(b"one ") + gzip.compress(b"two") + b"\0" * 512, "gzip", LIMIT) == b"one two"
    pack = zstandard.ZstdCompressor().compress
    assert decompress(pack(b"one ") + pack(b"two"), "zstd", LIMIT) == b"one two"
    many = gzip.compress(b"a" * 600_000)
    with pytest.raises(PayloadTooLarge):
        decompress(many + many, "gzip", LIMIT)


@packers
def test_garbage_behind_the_stream_is_refused(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    with pytest.raises(BadPayload):
        decompress(pack(b"abc" * 100) + b"garbage", encoding, LIMIT)


def test_a_zstd_frame_that_asks_for_a_huge_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(BadPayload):
        decompress(packer.compress(bytes(1000)) + packer.flush(), "zstd", LIMIT)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "compress", "x" * 1000])
def test_unknown_encodings(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="send gzip, deflate, zstd or none") as caught:
        decompress(b"abc", encoding, LIMIT)
    assert len(str(caught.value)) < 200


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "zstd"]))
def test_any_bytes_give_bytes_or_an_error_of_ours(body: bytes, encoding: str) -> None:
    with contextlib.suppress(IngestError):
        assert isinstance(decompress(body, encoding, LIMIT), bytes)
