"""Decompression and decoding in processes of their own, so that neither pages nor the writer wait for them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Literal, NamedTuple, TypeVar

import pyarrow as pa

from app.ingest.decompress import decompress
from app.ingest.errors import BadPayload, IngestError, Overloaded, Reason
from app.ingest.freed_memory import keep_freed_memory
from app.ingest.parcels import SMALL_BYTES, MemoryFile, Parcel, ParcelLost, inline, unpack
from app.otlp.columns import Batch, BatchGroup
from app.otlp.json import decode_json_bodies
from app.otlp.protobuf import decode_bodies

Media = Literal["protobuf", "json"]
Outcome = TypeVar("Outcome")


# One job takes several small bodies: its fixed cost is that of about 1,000 spans. Large ones are decoded alone, so that
# no other sender waits for them.
_GROUP_BODIES = 32
_GROUP_BYTES = 2 * 2**20
_COMPANY_BYTES = 2**21
_COMPANY_WAIT_S = 0.01
"""What is decoded without waiting for more, however many senders there are, and how long it waits otherwise."""
_GROUP_UNPACKED_BYTES = 16 * 2**20
_END_S = 2.0
_RETRY_AFTER_S = 2
_FATAL = "decoding this body ended its process twice: send smaller batches"


class Body(NamedTuple):
    """A request body as it came in."""

    data: bytes
    media: Media
    encoding: str


def decode_group(bodies: Sequence[Body], limit_bytes: int) -> tuple[list[IngestError | None], list[pa.Buffer]]:
    """What is wrong with each body, and the batches of the others as `BatchGroup.to_ipc`.

    Where a body unpacks to very much, those behind it are left for the next time.
    """
    errors: list[IngestError | None] = []
    unpacked: list[bytes] = []
    media = bodies[0].media
    for body in bodies:
        if sum(map(len, unpacked)) >= _GROUP_UNPACKED_BYTES:
            break
        try:
            unpacked.append(decompress(body.data, body.encoding, limit_bytes))
            errors.append(None)
        except IngestError as error:
            # Its traceback would keep what was unpacked until the next garbage collection: 64 MiB a bomb.
            errors.append(error.with_traceback(None))
    group = decode_bodies(unpacked) if media == "protobuf" else decode_json_bodies(unpacked)
    told = iter(group.errors)
    for place, known in enumerate(errors):
        if known is None and (message := next(told)) is not None:
            errors[place] = BadPayload(message[:1000])
    return errors, group.to_ipc()


def decode_parcel(
    kinds: Sequence[tuple[Media, str]], parcel: Parcel, limit_bytes: int, files: int
) -> tuple[list[IngestError | None], Parcel]:
    """`decode_group` of the bodies in a parcel, with its batches in another one; `files` as in `_packed`."""
    bodies = [Body(data, *kind) for data, kind in zip(unpack(parcel), kinds, strict=True)]
    errors, parts = decode_group(bodies, limit_bytes)
    return errors, _packed(parts, files)


def echo(parcel: Parcel) -> Parcel:
    """The same bytes in a parcel of this process."""
    return _packed(unpack(parcel), 1)


_files: deque[MemoryFile] = deque()


def _packed(parts: Sequence[pa.Buffer | bytes], files: int) -> Parcel:
    """A parcel that is good until this process has packed as many more as there are `files`; with 0 inline."""
    if not files:
        return inline(parts)
    while len(_files) < files:
        _files.append(MemoryFile())
    _files.rotate(-1)
    return _files[0].pack(parts)


@dataclass(eq=False)
class _Pending:
    body: Body
    future: asyncio.Future[Batch]
    since: float


class Decoders:
    """A pool of decoding processes that survives the death of one of them; to be used from one event loop.

    `at_once` tells how many bodies were under way at the same time lately, here and on their way to an answer.
    """

    def __init__(self, processes: int, limit_bytes: int, at_once: Callable[[], int] = lambda: 1) -> None:
        self._processes = processes
        self._at_once = at_once
        self._share = False
        self._stopping = False
        self._free_files: list[MemoryFile] = []
        self._limit_bytes = limit_bytes
        self._pool: ProcessPoolExecutor | None = None
        self._alone = asyncio.Lock()
        self._pending: deque[_Pending] = deque()
        self._jobs: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Starts the processes and waits until they can decode."""
        self._pool = self._new_pool()
        loop = asyncio.get_running_loop()
        nothing = inline([b""])
        kinds: list[tuple[Media, str]] = [("protobuf", "")]
        await asyncio.gather(
            *(loop.run_in_executor(self._pool, decode_parcel, kinds, nothing, 0, 0) for _ in range(self._processes))
        )
        self._share = hasattr(os, "memfd_create") and await self._echoes()

    async def _echoes(self) -> bool:
        """Whether the processes can open each other's memory files."""
        file = MemoryFile()
        try:
            sent = file.pack([bytes(SMALL_BYTES)])
            back = await asyncio.get_running_loop().run_in_executor(self._pool, echo, sent)
            return len(unpack(back)[0]) == SMALL_BYTES
        except (ParcelLost, OSError):
            return False
        finally:
            file.close()

    def stop(self) -> None:
        """Ends the processes; bodies that are being decoded are given up, and a process that goes on is killed."""
        self._stopping = True
        if self._pool is not None:
            # None once it is shut down; a pool of threads has none.
            processes = getattr(self._pool, "_processes", None) or {}
            going = {process.sentinel: process for process in processes.values()}
            self._pool.shutdown(wait=False, cancel_futures=True)
            deadline = time.monotonic() + _END_S
            while going and (left_s := deadline - time.monotonic()) > 0:
                for sentinel in wait(list(going), left_s):
                    del going[int(sentinel)]  # type: ignore[arg-type]
            for process in going.values():
                process.kill()
            self._pool.shutdown(wait=True)
        while self._free_files:
            self._free_files.pop().close()

    async def decode(self, body: bytes, media: Media, encoding: str) -> Batch:
        """The batch in a body. Raises BadPayload, PayloadTooLarge, UnsupportedEncoding."""
        loop = asyncio.get_running_loop()
        pending = _Pending(Body(body, media, encoding), loop.create_future(), loop.time())
        self._pending.append(pending)
        self._start_jobs()
        if self._pending:
            loop.call_later(_COMPANY_WAIT_S, self._start_jobs)
        return await pending.future

    async def run(self, job: Callable[[], Outcome]) -> Outcome:
        """One job of another kind in a decoding process. Raises what the job raises; BadPayload where it kills two."""
        loop = asyncio.get_running_loop()
        pool = self._started()
        try:
            return await loop.run_in_executor(pool, job)
        except BrokenProcessPool:
            self._check_going_on()
            # As in _decode: another body may have been the reason.
            async with self._alone:
                try:
                    return await loop.run_in_executor(self._healthy_pool(pool), job)
                except BrokenProcessPool:
                    self._check_going_on()
                    self._healthy_pool(self._pool)
                    raise BadPayload(_FATAL) from None

    def _start_jobs(self) -> None:
        """Hands what waits to the processes that are free: the busier they are, the more goes into one job."""
        while self._worth_a_job() and (group := self._next_group()):
            job = asyncio.create_task(self._decode(group))
            self._jobs.add(job)
            job.add_done_callback(self._ended)

    def _worth_a_job(self) -> bool:
        """Whether a process is free, and enough waits for it.

        Half of the requests that are under way at once go together: one half is decoded while the writer stores the
        other. 512-span bodies over 8 connections: 109,000 to 121,000 instead of 84,000 to 104,000 spans/s.
        """
        if not self._pending or len(self._jobs) >= self._processes:
            return False
        count = len(self._pending)
        if 2 * count >= self._at_once() or count >= _GROUP_BODIES:
            return True
        if sum(len(one.body.data) for one in self._pending) >= _COMPANY_BYTES:
            return True
        # A little less, because a timer may come that much early, and no other would follow.
        return asyncio.get_running_loop().time() - self._pending[0].since >= 0.9 * _COMPANY_WAIT_S

    def _ended(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        if not job.cancelled():
            self._start_jobs()

    def _next_group(self) -> list[_Pending]:
        """The next bodies for one job, without those whose senders left."""
        group: list[_Pending] = []
        size = 0
        while self._pending and len(group) < _GROUP_BODIES:
            one = self._pending[0]
            if not one.future.done():
                size += len(one.body.data)
                if group and (size > _GROUP_BYTES or one.body.media != group[0].body.media):
                    break
                group.append(one)
            self._pending.popleft()
        return group

    async def _decode(self, group: list[_Pending]) -> None:
        try:
            await self._decode_in(self._started(), group)
        except BrokenProcessPool:
            # A process died (out of memory, killed) and took all bodies with it. Each is tried again alone, so that
            # one that kills its decoder fails by itself.
            broken = self._started()
            if self._stopping:
                # The stop itself ended the process: the bodies are as good as any.
                for one in group:
                    _fail(one, _stopped())
                return
            async with self._alone:
                for one in group:
                    await self._decode_alone(broken, one)
        except Exception as error:  # noqa: BLE001 - every sender is answered
            for one in group:
                _fail(one, IngestError(f"decoding failed: {type(error).__name__}: {error}"))

    async def _decode_alone(self, broken: ProcessPoolExecutor, one: _Pending) -> None:
        try:
            await self._decode_in(self._healthy_pool(broken), [one])
        except BrokenProcessPool:
            if self._stopping:
                _fail(one, _stopped())
                return
            self._healthy_pool(self._pool)
            _fail(one, BadPayload(_FATAL))
        except Exception as error:  # noqa: BLE001 - every sender is answered
            _fail(one, IngestError(f"decoding failed: {type(error).__name__}: {error}"))

    async def _decode_in(self, pool: ProcessPoolExecutor, group: list[_Pending]) -> None:
        loop = asyncio.get_running_loop()
        kinds = [(one.body.media, one.body.encoding) for one in group]
        data = [one.body.data for one in group]
        file = self._free_files.pop() if self._free_files else MemoryFile()
        try:
            sent = file.pack(data) if self._share else inline(data)
            # No process can have finished more jobs that were not unpacked yet than there are processes.
            files = self._processes + 1 if self._share else 0
            job = partial(decode_parcel, kinds, sent, self._limit_bytes, files)
            errors, parcel = await loop.run_in_executor(pool, job)
            parts = unpack(parcel)
        except ParcelLost as lost:
            raise BrokenProcessPool(str(lost)) from lost
        finally:
            file.shrink()
            self._free_files.append(file)
        batches = iter(BatchGroup.from_ipc([pa.py_buffer(part) for part in parts]).batches())
        for one, error in zip(group, errors, strict=False):
            if error is not None:
                _fail(one, error)
            else:
                batch = next(batches)
                if not one.future.done():
                    one.future.set_result(batch)
        self._pending.extendleft(reversed(group[len(errors) :]))

    def _started(self) -> ProcessPoolExecutor:
        assert self._pool is not None, "start() comes first"
        return self._pool

    def _check_going_on(self) -> None:
        if self._stopping:
            raise _stopped()

    def _healthy_pool(self, broken: ProcessPoolExecutor | None) -> ProcessPoolExecutor:
        if self._pool is broken or self._pool is None:
            if broken is not None:
                broken.shutdown(wait=False)
            self._pool = self._new_pool()
        return self._pool

    def _new_pool(self) -> ProcessPoolExecutor:
        # spawn, not fork: the server has threads (DuckDB's, gRPC's) whose locks a forked child would inherit held.
        return ProcessPoolExecutor(
            self._processes, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_process
        )


def _stopped() -> Overloaded:
    return Overloaded("the server is stopping", _RETRY_AFTER_S, Reason.NOT_TAKING)


def _fail(pending: _Pending, error: IngestError) -> None:
    if not pending.future.done():
        pending.future.set_exception(error)


def _prepare_process() -> None:
    # Ctrl-C reaches the whole group; the server alone decides when to end, after draining.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    # A server that was killed cannot end its pool; without this the processes would stay for ever.
    parent.join()
    os._exit(1)
