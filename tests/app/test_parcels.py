"""Bytes arrive as they were sent, inline or in memory files; nothing stays open or in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.ingest import decoding
from app.ingest.decoding import Decoders
from app.ingest.parcels import SMALL_BYTES, MemoryFile, Parcel, ParcelLost, inline, unpack
from tests.app.test_columnar import message, request, span

LARGE = os.urandom(3 * SMALL_BYTES)

needs_memory_files = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory files exist on Linux only")


def open_files() -> int:
    """Memory files of this process."""
    count = 0
    for path in Path("/proc/self/fd").glob("*"):
        # Other threads open and close files meanwhile.
        with suppress(FileNotFoundError):
            count += "memfd:spanwise" in str(path.readlink())
    return count


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    _close_those_of_jobs()
    before = open_files()
    yield
    _close_those_of_jobs()
    assert open_files() == before


def _close_those_of_jobs() -> None:
    """Jobs that ran in threads of this process, here or in other tests, have left their files."""
    while decoding._files:
        decoding._files.pop().close()


@pytest.fixture
def file() -> Iterator[MemoryFile]:
    one = MemoryFile()
    yield one
    one.close()


PARTS = [[], [b""], [b"a", b"", b"bc"], [LARGE, b"", b"x" * 7, LARGE[:99_999]], [LARGE[:70_000]], [b"small"]]


@needs_memory_files
def test_parts_arrive_as_they_were_packed(file: MemoryFile) -> None:
    before = open_files()
    for parts in [*PARTS, *reversed(PARTS)]:
        parcel = file.pack(parts)
        assert (parcel.file >= 0) == (sum(map(len, parts)) >= SMALL_BYTES)
        assert unpack(parcel) == unpack(inline(parts)) == parts
    assert open_files() == before + 1


@needs_memory_files
def test_a_very_large_parcel_gives_its_memory_back(file: MemoryFile) -> None:
    parts = [LARGE] * 100
    parcel = file.pack(parts)
    assert unpack(parcel) == parts
    assert os.fstat(parcel.file).st_blocks * 512 >= 100 * len(LARGE)
    file.shrink()
    assert os.fstat(parcel.file).st_blocks * 512 <= 8 * 2**20


@needs_memory_files
def test_a_process_that_is_gone_is_said_so() -> None:
    with pytest.raises(ParcelLost, match=r"memory of process 4194999"):
        unpack(Parcel((5,), (), 4_194_999, 3))


@needs_memory_files
def test_a_parcel_that_was_cut_short_is_said_so(file: MemoryFile) -> None:
    parcel = file.pack([LARGE])
    os.ftruncate(parcel.file, 100)
    with pytest.raises(ParcelLost, match=rf"100 of {len(LARGE)} bytes"):
        unpack(parcel)


@needs_memory_files
def test_the_last_parcels_of_a_process_are_whole() -> None:
    files, before = 3, open_files()
    sent = [decoding._packed([LARGE[number:]], files) for number in range(10)]
    assert [unpack(parcel) for parcel in sent[-files:]] == [[LARGE[number:]] for number in range(7, 10)]
    assert open_files() == before + files


@pytest.mark.slow
@pytest.mark.parametrize("shared", [pytest.param(True, marks=needs_memory_files), False])
def test_large_bodies_are_decoded_with_and_without_memory_files(monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    if not shared:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    seen: list[Parcel] = []

    def noted(parcel: Parcel) -> list[bytes]:
        seen.append(parcel)
        return unpack(parcel)

    monkeypatch.setattr(decoding, "unpack", noted)
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
    assert (seen[-1].file >= 0) == shared
