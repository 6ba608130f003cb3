"""The lab as a context manager: servers, instrumented services, load, and a stop that loses no span."""

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab.faults import parse_faults
from tests.lab.load import MIX, LoadReport, Phase, Share, drive, warm_up
from tests.lab.processes import ProcessGroup
from tests.lab.servers import Servers, accepts, check_packages, free_port

ROOT = Path(__file__).parents[2]
PROTOCOLS = ("http/protobuf", "grpc", "http/json")
WEB_SERVICES = ("gateway", "orders", "payments")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


class Lab:
    """The running shop, exporting its spans to an OTLP endpoint.

    `fault` is a comma-separated list (see faults.py). `endpoint` is OTEL_EXPORTER_OTLP_ENDPOINT, without a path.
    `semconv` is OTEL_SEMCONV_STABILITY_OPT_IN: empty for the old attribute names, "http,database" for the new ones.
    `lean` leaves out the spans of ASGI messages and of the database driver below SQLAlchemy (the same queries again).
    `servers` lends running servers to several labs. Raises ServerUnavailable or ProcessFailed at entry.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        fault: str = "healthy",
        protocol: str = "http/protobuf",
        semconv: str = "",
        lean: bool = False,
        servers: Servers | None = None,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}: use {', '.join(PROTOCOLS)}")
        parse_faults(fault)
        self._fault = fault
        self._endpoint = endpoint
        self._protocol = protocol
        self._semconv = semconv
        self._lean = lean
        self._lent_servers = servers
        self._truth: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        """Start everything, wait until it answers, and send each endpoint its first requests, which are slow."""
        check_packages()
        self.servers = self._lent_servers or Servers().__enter__()
        self._scratch = Path(tempfile.mkdtemp(prefix="lab-"))
        self._processes = ProcessGroup(self._scratch)
        try:
            self._start_services()
            self.warm_up = warm_up(self.gateway_url)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.close()

    def drive(self, *, seconds: float, rate: float, mix: Sequence[Share] = MIX, seed: int = 1) -> LoadReport:
        """Send `rate` requests a second for `seconds`, and wait for the answers."""
        return self.drive_phases([Phase(seconds, rate)], mix, seed)

    def drive_phases(self, phases: Sequence[Phase], mix: Sequence[Share] = MIX, seed: int = 1) -> LoadReport:
        """Send several phases one after another, and wait for the answers."""
        return drive(self.gateway_url, phases, mix, seed)

    def wait_for_worker(self, timeout_s: float) -> int:
        """Wait until no job is queued; return how many still are when the time is over."""
        deadline = time.monotonic() + timeout_s
        while (queued := self._queued_jobs()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return queued

    def stop(self) -> dict[str, Any]:
        """End the services so that each exports its last batch; return what each counted itself, by service.

        Uses SIGINT: after SIGTERM uvicorn ends without running `atexit`, and the last batch is lost.
        """
        if self._truth is None:
            # The worker still calls `orders`, so it goes first.
            killed = self._processes.stop(["worker"], signal.SIGINT, STOP_TIMEOUT_S)
            killed += self._processes.stop(WEB_SERVICES, signal.SIGINT, STOP_TIMEOUT_S)
            files = self._scratch.glob("truth-*.json")
            self._truth = {file.stem.removeprefix("truth-"): json.loads(file.read_text()) for file in sorted(files)}
            if killed:
                self._truth["killed"] = killed
        return self._truth

    def close(self) -> None:
        """Stop services and own servers, and remove the scratch folder; a second call does nothing."""
        try:
            self.stop()
        finally:
            self._processes.close()
            shutil.rmtree(self._scratch, ignore_errors=True)
            if self._lent_servers is None:
                self.servers.close()

    def pids(self) -> dict[str, int]:
        """Return the process ids of running services and servers."""
        return self._processes.pids() | self.servers.pids()

    def _start_services(self) -> None:
        ports = {name: free_port() for name in WEB_SERVICES}
        self.gateway_url = f"http://127.0.0.1:{ports['gateway']}"
        shared = {
            "LAB_FAULT": self._fault,
            "LAB_SCRATCH": str(self._scratch),
            "LAB_ORDERS_URL": f"http://127.0.0.1:{ports['orders']}",
            "LAB_PAYMENTS_URL": f"http://127.0.0.1:{ports['payments']}",
            "LAB_DATABASE_URL": self.servers.database_url,
            "LAB_REDIS_URL": self.servers.redis_url,
            "LAB_LEAN": "1" if self._lean else "",
        }
        for name in WEB_SERVICES:
            uvicorn = ["uvicorn", "--host", "127.0.0.1", "--port", str(ports[name]), "--no-access-log"]
            # An idle connection that the server closes first would fail a healthy request now and then.
            uvicorn += ["--log-level", "warning", "--timeout-keep-alive", "120", f"tests.lab.services.{name}:app"]
            self._start(name, uvicorn, shared)
        celery = ["celery", "-A", "tests.lab.services.worker:shop", "worker", "--pool", "solo", "--loglevel", "WARNING"]
        self._start("worker", [*celery, "--without-gossip", "--without-mingle", "--without-heartbeat"], shared)
        for name, port in ports.items():
            self._processes.wait_until(name, lambda port=port: accepts(port), START_TIMEOUT_S)  # type: ignore[misc]
        ready = self._scratch / "worker-ready"
        self._processes.wait_until("worker", ready.exists, START_TIMEOUT_S)

    def _start(self, name: str, command: Sequence[str], shared: dict[str, str]) -> None:
        scripts = Path(sys.executable).parent
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "LAB_"))}
        environment |= shared | self._telemetry(name)
        environment["PYTHONPATH"] = str(ROOT)
        environment["PYTHONUNBUFFERED"] = "1"
        self._processes.start(
            name, [str(scripts / "opentelemetry-instrument"), str(scripts / command[0]), *command[1:]], env=environment
        )

    def _telemetry(self, name: str) -> dict[str, str]:
        is_json = self._protocol == "http/json"
        settings = {
            "OTEL_SERVICE_NAME": name,
            "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=shop,deployment.environment.name=lab",
            "OTEL_TRACES_EXPORTER": "otlp_json_http" if is_json else "otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "1000",
            "OTEL_SEMCONV_STABILITY_OPT_IN": self._semconv,
        }
        if not is_json:
            settings["OTEL_EXPORTER_OTLP_PROTOCOL"] = self._protocol
        # Celery polls its broker several times a second; each poll would be a trace of its own.
        disabled = ["redis"] if name == "worker" else []
        disabled += ["asyncpg", "fastapi"] if self._lean else []
        settings["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = ",".join(disabled)
        return settings

    def _queued_jobs(self) -> int:
        """Ask Redis for the length of the queue, in its own protocol: no client library is needed for one command."""
        with socket.create_connection(("127.0.0.1", self.servers.redis_port), timeout=2) as connection:
            connection.sendall(b"LLEN receipts\r\n")
            return int(connection.recv(64).decode().strip().lstrip(":"))
