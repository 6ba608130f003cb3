"""The official exporters of Python and JavaScript, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.server import ROOT, Server, environment

JAVASCRIPT = ROOT / "tests" / "exporters_js"
PYTHON_EXPORTERS = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
    "http/json": "opentelemetry.exporter.otlp.json.http",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc",
}
JAVASCRIPT_EXPORTERS = {"http/protobuf": "proto", "http/json": "http", "grpc": "grpc"}
_TIMEOUT_S = 90
_SENDER = """
import logging, sys
from importlib import import_module
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
package, service, count, signals = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].split(",")
resource = Resource.create({"service.name": service})
traces = TracerProvider(resource=resource)
traces.add_span_processor(BatchSpanProcessor(import_module(package + ".trace_exporter").OTLPSpanExporter()))
providers = [traces]
tracer = traces.get_tracer("sender")
counter = logger = None
if "metrics" in signals:
    exporter = import_module(package + ".metric_exporter").OTLPMetricExporter()
    providers.append(MeterProvider([PeriodicExportingMetricReader(exporter, 3_600_000)], resource))
    counter = providers[-1].get_meter("sender").create_counter("orders")
if "logs" in signals:
    providers.append(LoggerProvider(resource))
    exporter = import_module(package + "._log_exporter").OTLPLogExporter()
    providers[-1].add_log_record_processor(BatchLogRecordProcessor(exporter))
    logger = providers[-1].get_logger("sender")
for number in range(count):
    with tracer.start_as_current_span("GET /orders", kind=trace.SpanKind.SERVER, attributes={"http.route": "/orders"}):
        with tracer.start_as_current_span("SELECT", kind=trace.SpanKind.CLIENT, attributes={"number": number}):
            if counter:
                counter.add(1, {"of": number % 2})
            if logger:
                logger.emit(body=f"order {number}", severity_number=SeverityNumber.INFO, attributes={"number": number})
ok = all([provider.force_flush(30_000) for provider in providers])
for provider in providers:
    provider.shutdown()
sys.exit(0 if ok else 1)
"""


@dataclass(frozen=True)
class Told:
    """What JavaScript's exporter said of its batches, and what the SDK logged."""

    exported: int
    failed: int
    reasons: list[dict[str, Any]]
    logged: str


def send_by_python(
    server: Server, exporter: str, service: str, count: int, signals: str = "traces", **variables: str
) -> str:
    """Sends so many requests of two spans each, with a log record each and two metric points; gives what it logged."""
    command = [sys.executable, "-c", _SENDER, PYTHON_EXPORTERS[exporter], service, str(count), signals]
    done = _ended(server, exporter, command, server.log.parent, OTEL_EXPORTER_OTLP_INSECURE="true", **variables)
    return done.stderr


def send_by_javascript(
    server: Server, exporter: str, service: str, count: int, batch: int = 512, **variables: str
) -> Told:
    """Sends so many requests of two spans each in batches; what `install` put there is needed."""
    command = ["node", "send.js", JAVASCRIPT_EXPORTERS[exporter], service, str(count), str(batch)]
    done = _ended(server, exporter, command, JAVASCRIPT, **variables)
    return Told(logged=done.stderr, **json.loads(done.stdout))


def install() -> str:
    """Puts JavaScript's exporters beside their lock file, once; gives the reason where that cannot be done."""
    wanted, found = JAVASCRIPT / "package-lock.json", JAVASCRIPT / "node_modules" / ".spanwise-lock.json"
    try:
        subprocess.run(["node", "--version"], check=True, capture_output=True, timeout=30)
        if found.is_file() and found.read_bytes() == wanted.read_bytes():
            return ""
        npm = ["npm", "ci", "--no-audit", "--no-fund", "--no-progress", "--ignore-scripts"]
        subprocess.run(npm, cwd=JAVASCRIPT, check=True, capture_output=True, text=True, timeout=300)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed: make packages does it on Debian"
    except subprocess.TimeoutExpired as error:
        return f"{error.cmd[0]} did not end within {error.timeout:g} s"
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)} failed: {str(error.stderr).strip()[-500:]}"
    # Written last, so that an installation that was broken off is repeated.
    found.write_bytes(wanted.read_bytes())
    return ""


def _ended(
    server: Server, exporter: str, command: list[str], folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    endpoint = f"http://127.0.0.1:{server.grpc_port if exporter == 'grpc' else server.http_port}"
    done = subprocess.run(
        command,
        env=environment({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **variables}),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done
