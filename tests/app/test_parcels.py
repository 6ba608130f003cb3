"""Bytes arrive as they were sent, inline or in memory files; nothing stays open or in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.ingest import decoding, parcels
from app.ingest.decoding import Decoders
from app.ingest.parcels import SMALL_BYTES, Parcel, ParcelLost, pack, release, unpack
from tests.app.test_columnar import message, request, span

LARGE = os.urandom(3 * SMALL_BYTES)

needs_memory_files = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory files exist on Linux only")


def open_files() -> int:
    """Memory files of this process."""
    links = [path for path in Path("/proc/self/fd").glob("*") if path.is_symlink()]
    return sum("memfd:spanwise" in str(path.readlink()) for path in links)


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    assert open_files() == 0
    yield
    while decoding._packed:
        release(decoding._packed.popleft())
    assert open_files() == 0


@pytest.mark.parametrize("shared", [pytest.param(True, marks=needs_memory_files), False])
@pytest.mark.parametrize("parts", [[], [b""], [b"a", b"", b"bc"], [LARGE, b"", b"x" * 7, LARGE[:99_999]]])
def test_parts_arrive_as_they_were_packed(parts: list[bytes], shared: bool) -> None:
    parcel = pack(parts, shared=shared)
    assert (parcel.file >= 0) == (shared and sum(map(len, parts)) >= SMALL_BYTES)
    assert unpack(parcel) == parts
    release(parcel)


@needs_memory_files
def test_memory_is_free_once_a_parcel_is_unpacked() -> None:
    parcel = pack([LARGE], shared=True)
    assert os.fstat(parcel.file).st_blocks * 512 >= len(LARGE)
    unpack(parcel)
    assert os.fstat(parcel.file).st_blocks == 0
    release(parcel)


@needs_memory_files
def test_a_process_that_is_gone_is_said_so() -> None:
    with pytest.raises(ParcelLost, match=r"memory of process 4194999"):
        unpack(Parcel((5,), (), 4_194_999, 3))


@needs_memory_files
def test_a_parcel_that_was_cut_short_is_said_so() -> None:
    parcel = pack([LARGE], shared=True)
    os.ftruncate(parcel.file, 100)
    with pytest.raises(ParcelLost, match=rf"100 of {len(LARGE)} bytes"):
        unpack(parcel)
    release(parcel)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [pytest.param(True, marks=needs_memory_files), False])
def test_large_bodies_are_decoded_with_and_without_memory_files(monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    if not shared:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    seen: list[bool] = []
    packed = parcels.pack

    def noted(parts: list[bytes], *, shared: bool) -> Parcel:
        seen.append(shared)
        return packed(parts, shared=shared)

    monkeypatch.setattr(decoding, "pack", noted)
    body = request(*(span(name=message(5, b"x" * 500 + str(number).encode())) for number in range(1_000)))

    async def scenario() -> None:
        decoders = Decoders(2, 10**8)
        await decoders.start()
        try:
            for batch in await asyncio.gather(*(decoders.decode(body, "protobuf", "") for _ in range(12))):
                assert sorted(batch.shapes["name"].to_pylist())[0] == "x" * 500 + "0"
                assert batch.shapes.num_rows == 1_000
        finally:
            await asyncio.to_thread(decoders.stop)

    asyncio.run(scenario())
    assert seen[-1] == shared
