"""Decompression and decoding in processes of their own, so that neither pages nor the writer wait for them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Literal

from app.ingest.decompress import decompress
from app.ingest.errors import BadPayload
from app.otlp.columns import Batch
from app.otlp.errors import DecodeError
from app.otlp.json import decode_json
from app.otlp.protobuf import decode_protobuf

Media = Literal["protobuf", "json"]


def decode_body(body: bytes, media: Media, encoding: str, limit_bytes: int) -> list[bytes]:
    """A request body as the parts of `Batch.to_ipc`. Raises BadPayload, PayloadTooLarge, UnsupportedEncoding."""
    unpacked = decompress(body, encoding, limit_bytes)
    try:
        batch = decode_protobuf(unpacked) if media == "protobuf" else decode_json(unpacked)
    except DecodeError as error:
        raise BadPayload(str(error)[:1000]) from error
    return batch.to_ipc()


class Decoders:
    """A pool of decoding processes that survives the death of one of them."""

    def __init__(self, processes: int, limit_bytes: int) -> None:
        self._processes = processes
        self._limit_bytes = limit_bytes
        self._pool: ProcessPoolExecutor | None = None
        self._alone = asyncio.Lock()

    async def start(self) -> None:
        """Starts the processes and waits until they can decode."""
        self._pool = self._new_pool()
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            *(loop.run_in_executor(self._pool, decode_body, b"", "protobuf", "", 0) for _ in range(self._processes))
        )

    def stop(self) -> None:
        """Ends the processes; bodies that are being decoded are given up."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    async def decode(self, body: bytes, media: Media, encoding: str) -> Batch:
        """The batch in a body. Raises BadPayload, PayloadTooLarge, UnsupportedEncoding."""
        pool = self._pool
        assert pool is not None, "start() comes first"
        try:
            return await self._decode_in(pool, body, media, encoding)
        except BrokenProcessPool:
            # A process died (out of memory, killed) and took all bodies with it. Each is tried again alone, so that
            # one that kills its decoder fails by itself.
            async with self._alone:
                try:
                    return await self._decode_in(self._healthy_pool(pool), body, media, encoding)
                except BrokenProcessPool as error:
                    self._healthy_pool(self._pool)
                    raise BadPayload("decoding this body ended its process twice: send smaller batches") from error

    async def _decode_in(self, pool: ProcessPoolExecutor, body: bytes, media: Media, encoding: str) -> Batch:
        loop = asyncio.get_running_loop()
        parts = await loop.run_in_executor(pool, decode_body, body, media, encoding, self._limit_bytes)
        return Batch.from_ipc(parts)

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


def _prepare_process() -> None:
    # Ctrl-C reaches the whole group; the server alone decides when to end, after draining.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    # A server that was killed cannot end its pool; without this the processes would stay for ever.
    parent.join()
    os._exit(1)
