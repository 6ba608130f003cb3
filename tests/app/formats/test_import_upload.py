"""Uploads become datasets through a process of their own; broken and cancelled ones leave nothing."""

from __future__ import annotations

import asyncio
import gzip
import multiprocessing
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from app.ingest import reader_process
from app.ingest.importing import ImportRefused, import_file, import_upload
from app.otlp.columns import Batch
from app.store import open_store
from app.store.base import LIVE, Dataset, Store
from tests.app.formats.imported import FIXTURES


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store(":memory:")
    yield opened
    opened.close()


def uploads(store: Store) -> list[Dataset]:
    return [one for one in store.datasets() if one.dataset_id != LIVE]


def upload(store: Store, path: Path) -> Dataset:
    return asyncio.run(import_upload(store, path, "my file", "C:\\x<script>.json"))


def test_an_upload_is_a_dataset(store: Store) -> None:
    dataset = upload(store, FIXTURES / "jaeger.json")
    assert uploads(store) == [dataset]
    assert (dataset.name, dataset.source, dataset.kind) == ("my file", "C:\\x<script>.json", "upload")
    assert (dataset.format, dataset.span_count, dataset.trace_count) == ("Jaeger JSON", 3, 1)
    assert (dataset.tally.found, dataset.tally.accepted) == (3, 3)
    assert not multiprocessing.active_children()


def test_the_same_file_again_is_another_dataset(store: Store) -> None:
    first, second = (import_file(store, FIXTURES / "otlp.jsonl") for _ in range(2))
    assert first.dataset_id != second.dataset_id
    assert first.tally == second.tally
    assert (first.span_count, second.span_count) == (3, 3)
    assert first.name == "otlp.jsonl"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"hello", "not a known trace format"),
        (gzip.compress((FIXTURES / "zipkin.json").read_bytes())[:-9], "cut off"),
        (b'[{"traceId": "1", "id": "2"}]', "no start time"),
        (b'[{"traceId": "1", "id": "2",}]', "not JSON"),
        ((FIXTURES / "otlp.pb").read_bytes() + b"\x12\x00", "not OTLP protobuf any more"),
    ],
)
def test_a_refused_file_leaves_nothing(content: bytes, words: str, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ImportRefused, match=words):
        upload(store, path)
    assert uploads(store) == []


def test_a_missing_file_is_said_as_such(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        import_file(store, tmp_path / "none")


def test_a_large_file_broken_at_its_end_leaves_nothing(store: Store, tmp_path: Path) -> None:
    # Several batches are stored before the fault comes.
    content = (FIXTURES / "otlp.pb").read_bytes() * 30_000
    path = tmp_path / "file"
    path.write_bytes(content[:-1])
    with pytest.raises(ImportRefused, match="cut off") as refused:
        upload(store, path)
    assert refused.value.byte == len(content) - 1
    assert uploads(store) == []
    path.write_bytes(content)
    tally = import_file(store, path).tally
    assert (tally.found, tally.accepted, tally.duplicates) == (90_000, 3, 89_997)


@pytest.mark.parametrize("moment", ["before it starts", "while the process starts", "between two batches"])
def test_a_cancelled_upload_leaves_nothing(
    moment: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = tmp_path / "big.pb"
    big.write_bytes((FIXTURES / "otlp.pb").read_bytes() * 20_000)
    drawn, go_on = threading.Event(), threading.Event()
    import_dataset = store.import_dataset

    def slow(name: str, kind: str, source: str, format_name: str, batches: Iterable[Batch]) -> Dataset:
        def slowly() -> Iterator[Batch]:
            for batch in batches:
                yield batch
                drawn.set()
                go_on.wait(20)

        return import_dataset(name, kind, source, format_name, slowly())

    monkeypatch.setattr(store, "import_dataset", slow)

    async def cancelled() -> None:
        importing = asyncio.create_task(import_upload(store, big, "big", "big"))
        if moment == "while the process starts":
            await asyncio.sleep(0.02)
        elif moment == "between two batches":
            assert await asyncio.to_thread(drawn.wait, 20)
        importing.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await importing

    asyncio.run(cancelled())
    monkeypatch.undo()
    assert uploads(store) == []
    assert not multiprocessing.active_children()
    assert import_file(store, FIXTURES / "otlp.json").span_count == 3


def test_an_upload_cancelled_after_its_commit_is_deleted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    committed, go_on = threading.Event(), threading.Event()
    import_dataset = store.import_dataset

    def slow(*arguments: object) -> Dataset:
        dataset = import_dataset(*arguments)  # type: ignore[arg-type]
        committed.set()
        go_on.wait(10)
        return dataset

    monkeypatch.setattr(store, "import_dataset", slow)

    async def cancelled() -> None:
        importing = asyncio.create_task(import_upload(store, FIXTURES / "otlp.json", "late", "late"))
        await asyncio.to_thread(committed.wait, 20)
        importing.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await importing

    asyncio.run(cancelled())
    assert uploads(store) == []


def test_a_reader_that_dies_is_a_refusal(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    big = tmp_path / "big.jsonl"
    big.write_bytes((FIXTURES / "otlp.jsonl").read_bytes().removeprefix(b"\xef\xbb\xbf") * 40_000)
    opened = reader_process.ReaderProcess.opened

    def killed(reader: reader_process.ReaderProcess) -> object:
        found = opened(reader)
        for child in multiprocessing.active_children():
            child.kill()
        return found

    monkeypatch.setattr(reader_process.ReaderProcess, "opened", killed)
    with pytest.raises(ImportRefused, match="ended by signal 9"):
        import_file(store, big)
    assert uploads(store) == []
