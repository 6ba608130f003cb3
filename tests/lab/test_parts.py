"""The lab's parts that need no server."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.lab.capture import Capture
from tests.lab.faults import Fault, parse_faults
from tests.lab.load import MIX, Phase, arrivals
from tests.lab.processes import ProcessFailed, ProcessGroup
from tests.lab.servers import REQUIREMENTS, ServerUnavailable, find_programs, free_port

ROOT = Path(__file__).parents[2]


def test_faults_are_read_from_a_list() -> None:
    """Blanks and `healthy` count for nothing; an unknown name is refused."""
    assert parse_faults(" small_pool, n_plus_one ,healthy,") == {Fault.SMALL_POOL, Fault.N_PLUS_ONE}
    assert parse_faults("") == parse_faults("healthy") == frozenset()
    with pytest.raises(ValueError, match="no_such_fault"):
        parse_faults("small_pool,no_such_fault")


def test_arrivals_are_as_many_as_the_rate_says() -> None:
    """A phase has an exact number of arrivals, in order, inside it."""
    times = arrivals(Phase(10.0, 7.5), random.Random(3))
    assert len(times) == 75
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < 10
    assert sum(share.weight for share in MIX) == pytest.approx(1.0)


def test_capture_keeps_json_as_protobuf() -> None:
    """Hexadecimal ids of OTLP/JSON become bytes."""
    span: dict[str, object] = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "name": "x"}
    span |= {"startTimeUnixNano": "1000000", "endTimeUnixNano": "3500000", "kind": 3}
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    with Capture() as capture:
        url = capture.endpoint("http/json") + "/v1/traces"
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(document).encode(), headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200
        (kept,) = capture.spans()
    assert kept.span.trace_id.hex() == span["traceId"]
    assert kept.duration_ms == 2.5
    assert capture.protocols == {"http/json"}
    assert ExportTraceServiceRequest.FromString(capture.bodies[0]).resource_spans


def test_a_process_that_ends_at_start_is_reported_with_its_log(tmp_path: Path) -> None:
    """The error shows what the child printed."""
    group = ProcessGroup(tmp_path)
    try:
        group.start("broken", [sys.executable, "-c", "raise SystemExit('no luck')"])
        with pytest.raises(ProcessFailed, match="no luck"):
            group.wait_until("broken", lambda: False, timeout_s=10)
    finally:
        group.close()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_do_not_outlive_their_parent(tmp_path: Path, ending: signal.Signals) -> None:
    """Whatever kills the parent, its children die."""
    code = (
        "import sys, time; from pathlib import Path; from tests.lab.processes import ProcessGroup\n"
        "group = ProcessGroup(Path(sys.argv[1])); print(group.start('child', ['sleep', '60']).pid, flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(ending)
    deadline = time.monotonic() + 10
    while _is_running(child):
        assert time.monotonic() < deadline, "the child is still running"
        time.sleep(0.02)


def test_missing_servers_name_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is in the message."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ServerUnavailable, match="apt-get install"):
        find_programs()


def test_requirements_are_pinned() -> None:
    """Every requirement of the lab has one exact version."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    assert all("==" in line for line in lines)


def test_ports_are_free() -> None:
    """Two ports asked for in a row are usable ports."""
    assert all(1024 < free_port() < 65536 for _ in range(2))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed orphan stays a zombie until the init process reads its status.
    return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].startswith(" Z")
