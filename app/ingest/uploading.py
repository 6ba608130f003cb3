"""A trace file on its way from a request to a scratch file: streamed, counted, never named by its sender.

Promises: no more than a chunk is held in memory, no more than the limit reaches the disk, and the scratch file is gone
when the block ends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from app.ingest.importing import import_upload
from app.settings import Settings
from app.store.base import Dataset, Store

_WRITE_BYTES = 2**20
_SILENCE_S = 30.0
"""The longest pause between two pieces of a file: a sender that is silent for longer is let go."""
_MAX_PARTS = 16
_MAX_FIELD_BYTES = 4096
_MAX_HEADER_BYTES = 8192
_MAX_NAME_LENGTH = 120
_PREFIX = "upload-"


class UploadRefused(Exception):
    """The request holds no file that can be taken; `status` is the HTTP status, `hint` says what would do."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.hint = hint


@dataclass(frozen=True)
class Upload:
    """One file that has arrived whole."""

    path: Path
    name: str
    """What the sender wants it called, else the file's name; hostile text of at most 120 characters."""
    source: str
    """The file's name as the sender gave it, else empty; hostile text, never a path of ours."""
    size_bytes: int


def scratch_folder(data: str) -> Path:
    """Where uploads wait for their import: beside the database file, on the disk that must hold them anyway."""
    if data == ":memory:":
        return Path(tempfile.gettempdir())
    return Path(data).absolute().parent / "uploads"


def clear_scratch(folder: Path) -> None:
    """Makes the folder and removes what a killed process left; call it only where no other server uses the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{_PREFIX}*"):
        leftover.unlink(missing_ok=True)


async def upload_to_dataset(request: Request) -> Dataset:
    """The dataset made of the file in a request; raises UploadRefused, ImportRefused, StoreError.

    Of `app.state` it needs store, settings and `imports`, the semaphore that bounds how many files are read at once.
    """
    store: Store = request.app.state.store
    settings: Settings = request.app.state.settings
    imports: asyncio.Semaphore = request.app.state.imports
    folder = scratch_folder(settings.data)
    async with received_upload(request, folder, settings.max_upload_bytes, settings.min_free_bytes) as file, imports:
        return await import_upload(store, file.path, file.name, file.source)


@asynccontextmanager
async def received_upload(request: Request, folder: Path, max_bytes: int, min_free_bytes: int) -> AsyncIterator[Upload]:
    """The file of a request, a form's field `file` or the raw body with `?name=`; raises UploadRefused.

    So much of the disk stays free for what is stored already.
    """
    declared = request.headers.get("content-length", "")
    # A form adds boundaries and headers to the file; what is really written is counted below.
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes + 64 * 1024):
        raise _too_large(max_bytes)
    handle, path = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            receiving = _Receiving(request, file, folder, max_bytes, min_free_bytes)
            try:
                await receiving.receive()
            except TimeoutError:
                raise UploadRefused(408, f"Nothing more of the file arrived for {_SILENCE_S:g} s.") from None
        yield Upload(Path(path), receiving.name, receiving.source, receiving.size_bytes)
    finally:
        await asyncio.to_thread(Path(path).unlink, missing_ok=True)


def _too_large(max_bytes: int) -> UploadRefused:
    return UploadRefused(
        413, f"The file is larger than {max_bytes} bytes.", "Split it, or raise SPANWISE_MAX_UPLOAD_BYTES."
    )


class _Receiving:
    """Writes one request's file, whichever way it is packed."""

    def __init__(self, request: Request, file: BinaryIO, folder: Path, max_bytes: int, min_free_bytes: int) -> None:
        self._request = request
        self._file = file
        self._folder = folder
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._buffer = bytearray()
        self._fields: dict[str, bytearray] = {}
        self._parts = 0
        self._header = [bytearray(), bytearray()]
        self._disposition = b""
        self._field: str | None = None
        self._in_file = self._file_seen = self._ended = False
        self.source = request.query_params.get("name", "")[:255]
        self.size_bytes = 0

    @property
    def name(self) -> str:
        """The field `name` of a form, else `?name=`, else the file's own name."""
        wanted = self._fields.get("name", bytearray()).decode("utf-8", "replace").strip()
        base = self.source.replace("\\", "/").rsplit("/", 1)[-1]
        cleaned = "".join(each if each.isprintable() else " " for each in wanted or base).strip()
        return cleaned[:_MAX_NAME_LENGTH] or "upload"

    async def receive(self) -> None:
        media, options = parse_options_header(self._request.headers.get("content-type"))
        if media == b"multipart/form-data":
            await self._receive_form(options.get(b"boundary", b""))
        else:
            # Whatever it is called: curl --data-binary says application/x-www-form-urlencoded of every file.
            async for chunk in self._chunks():
                self._keep(chunk)
                await self._flush(_WRITE_BYTES)
        await self._flush(0)
        if not self.size_bytes:
            raise UploadRefused(400, "The file is empty.", "Choose a file of traces.")

    async def _chunks(self) -> AsyncIterator[bytes]:
        stream = self._request.stream()
        while True:
            try:
                async with asyncio.timeout(_SILENCE_S):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except ClientDisconnect:
                raise UploadRefused(400, "The sender left before the file was complete.") from None
            yield chunk

    async def _receive_form(self, boundary: bytes) -> None:
        if not 0 < len(boundary) <= 200:
            raise UploadRefused(400, "The form names no boundary.", "Let the client set the Content-Type itself.")
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_part_data": self._part_data,
                "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_end": self._form_ends,
            },
        )
        try:
            async for chunk in self._chunks():
                parser.write(chunk)
                await self._flush(_WRITE_BYTES)
            parser.finalize()
        except MultipartParseError as error:
            raise UploadRefused(400, f"The form cannot be read: {error}.") from None
        if not self._ended:
            raise UploadRefused(400, "The form is cut off.")
        if not self._file_seen:
            raise UploadRefused(400, "The form has no field “file”.", "Choose a file of traces.")

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise UploadRefused(400, f"The form has more than {_MAX_PARTS} fields.")
        self._disposition = b""

    def _add_header(self, which: int, piece: bytes) -> None:
        self._header[which] += piece
        if len(self._header[which]) > _MAX_HEADER_BYTES:
            raise UploadRefused(400, "A header inside the form is too long.")

    def _header_ends(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])
        self._header = [bytearray(), bytearray()]

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = self._field == "file"
        if self._in_file:
            if self._file_seen:
                raise UploadRefused(400, "The form has two files.", "Upload them one after another.")
            self._file_seen = True
            self.source = options.get(b"filename", b"").decode("utf-8", "replace")[:255]

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._keep(data[start:end])
            return
        kept = self._fields.setdefault(self._field or "", bytearray())
        kept += data[start:end]
        if len(kept) > _MAX_FIELD_BYTES:
            raise UploadRefused(400, f"A field of the form is longer than {_MAX_FIELD_BYTES} bytes.")

    def _form_ends(self) -> None:
        self._ended = True

    def _keep(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        if self.size_bytes > self._max_bytes:
            raise _too_large(self._max_bytes)
        self._buffer += piece

    async def _flush(self, above_bytes: int) -> None:
        if len(self._buffer) > above_bytes:
            await asyncio.to_thread(self._write, bytes(self._buffer))
            self._buffer.clear()

    def _write(self, data: bytes) -> None:
        free_bytes = shutil.disk_usage(self._folder).free
        if free_bytes < self._min_free_bytes + len(data):
            raise UploadRefused(
                507,
                f"The disk is too full for this file: {free_bytes // 2**20} MiB are free and "
                f"{self._min_free_bytes // 2**20} MiB stay so.",
                "Free some disk, or delete a dataset.",
            )
        self._file.write(data)
