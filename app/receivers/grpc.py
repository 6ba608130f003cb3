"""OTLP over gRPC: Export on raw bytes, so that decoding, limits and answers are the same as over HTTP."""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import grpc
import grpc.aio

from app.grace import Grace
from app.ingest.errors import BadPayload, IngestError, Overloaded, PayloadTooLarge
from app.ingest.ingest import Ingest
from app.otlp.other_signals import OtherSignal
from app.receivers.status import Code, export_response, not_kept_response, retry_info, status
from app.settings import Settings
from app.sockets import CannotListen, address_text, bound_sockets

_LOG = logging.getLogger("spanwise.receivers")
_COMMIT_TIMEOUT_S = 8.0
_ANSWER_RESERVE_S = 0.25
_GRACE_LOOKED_AT_S = 0.1
"""It may end early: when the server is asked a second time to stop."""
_SERVICES: dict[str, OtherSignal | None] = {
    "opentelemetry.proto.collector.trace.v1.TraceService": None,
    "opentelemetry.proto.collector.metrics.v1.MetricsService": "metrics",
    "opentelemetry.proto.collector.logs.v1.LogsService": "logs",
}
_MAX_STREAMS = 256
_MAX_METADATA_BYTES = 16 * 1024
_IDLE_MS = 60_000
"""Clients connect again without a call being lost."""
_AGE_IN_BODIES = 2


class GrpcReceiver:
    """One gRPC server; start and stop it on the event loop."""

    def __init__(self, ingest: Ingest, settings: Settings) -> None:
        self._ingest = ingest
        self._server = grpc.aio.server(
            options=(
                # With grpcio's default a second instance would start happily and take half of the traffic.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_concurrent_streams", _MAX_STREAMS),
                ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
                # SDKs may ping an idle connection every 10 s without being sent away.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                # gRPC cannot make room for others by itself, so that silent connections go before they are many.
                ("grpc.max_allowed_incoming_connections", settings.max_connections),
                ("grpc.server_handshake_timeout_ms", round(settings.header_timeout_s * 1_000)),
                ("grpc.http2.settings_timeout", round(settings.header_timeout_s * 1_000)),
                ("grpc.max_connection_idle_ms", _IDLE_MS),
                # gRPC waits for ever for the message of a call. Aged connections take no new calls, and those under
                # way have once more the time of a body and its commit.
                ("grpc.max_connection_age_ms", round(_AGE_IN_BODIES * settings.body_timeout_s * 1_000)),
                ("grpc.max_connection_age_grace_ms", round((settings.body_timeout_s + _COMMIT_TIMEOUT_S) * 1_000)),
                # A peer that vanished is found out within this and the time below.
                ("grpc.keepalive_time_ms", _IDLE_MS),
                ("grpc.keepalive_timeout_ms", 20_000),
            )
        )
        self._server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(
                    service, {"Export": grpc.unary_unary_rpc_method_handler(partial(self._export, other_signal))}
                )
                for service, other_signal in _SERVICES.items()
            )
        )

    async def start(self, hosts: tuple[str, ...], port: int) -> int:
        """Listens on every host; gives the port (a free one for 0). Raises CannotListen."""
        for host in hosts:
            # grpcio says only that it failed; a socket of our own says why.
            for probe in bound_sockets((host,), port):
                port = probe.getsockname()[1]
                probe.close()
            try:
                self._server.add_insecure_port(address_text(host, port))
            except RuntimeError:
                raise CannotListen(f"{address_text(host, port)} cannot be listened on", taken=True) from None
        await self._server.start()
        return port

    async def stop(self, grace: Grace) -> None:
        """Takes no new calls, lets those under way finish while the grace lasts."""
        stopping = asyncio.create_task(self._server.stop(grace.left_s()))
        while not (await asyncio.wait({stopping}, timeout=_GRACE_LOOKED_AT_S))[0]:
            if not grace.left_s():
                await self._server.stop(None)
        await stopping

    async def _export(
        self, other_signal: OtherSignal | None, body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        left_s = context.time_remaining()
        timeout_s = _COMMIT_TIMEOUT_S if left_s is None else min(_COMMIT_TIMEOUT_S, left_s - _ANSWER_RESERVE_S)
        timeout_s = max(timeout_s, 0.01)
        answer = await self._answered(other_signal, body, timeout_s)
        if not isinstance(answer, bytes):
            # An abort is an exception that knows its call, and the call knows it: with the frames that it came through
            # it is freed by the garbage collector only. A flood kept 100 MiB of refused bodies alive that way.
            del body
            await _abort(context, answer)
        return answer

    async def _answered(self, other_signal: OtherSignal | None, body: bytes, timeout_s: float) -> bytes | _Refusal:
        try:
            if other_signal:
                await self._ingest.other_signals.submit(
                    other_signal, body, media="protobuf", encoding="", timeout_s=timeout_s
                )
                return bytes(not_kept_response().SerializeToString())
            tally = await self._ingest.submit(body, media="protobuf", encoding="", timeout_s=timeout_s)
        except BadPayload as error:
            return _Refusal(Code.INVALID_ARGUMENT, str(error), field="body")
        except PayloadTooLarge as error:
            return _Refusal(Code.RESOURCE_EXHAUSTED, str(error))
        except Overloaded as error:
            return _Refusal(Code.UNAVAILABLE, str(error), retry_after_s=min(max(error.retry_after_s, 1), 3))
        except IngestError as error:
            _LOG.error("%s were not taken: %s", other_signal or "traces", error)
            return _Refusal(Code.INTERNAL, str(error))
        except Exception:  # noqa: BLE001 - every sender is answered
            bug = uuid.uuid4().hex[:12]
            _LOG.exception("bug %s while receiving %s over gRPC", bug, other_signal or "traces")
            return _Refusal(Code.INTERNAL, f"Spanwise failed on this request; its log has it under {bug}.")
        return bytes(export_response(tally).SerializeToString())


@dataclass(frozen=True)
class _Refusal:
    code: int
    message: str
    field: str = ""
    retry_after_s: int = 0


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], refusal: _Refusal) -> NoReturn:
    if context.done():
        # Its deadline passed or the sender left: there is nobody to tell, and abort would raise an error of its own.
        raise asyncio.CancelledError
    retry_after_s = refusal.retry_after_s
    answer = status(refusal.code, refusal.message, field=refusal.field, retry_after_s=retry_after_s)
    trailers = [("grpc-status-details-bin", answer.SerializeToString())]
    if retry_after_s:
        # The Python exporter looks here, others into the details above.
        trailers.append(("google.rpc.retryinfo-bin", retry_info(retry_after_s).SerializeToString()))
    await context.abort(_GRPC_CODES[refusal.code], answer.message, tuple(trailers))
    raise AssertionError("abort raises")


_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
