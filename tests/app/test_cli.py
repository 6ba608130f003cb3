"""The command as people use it: real processes, exit codes, what goes to stdout and what to stderr."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli import main
from app.settings import setting_fields
from app.store import open_store
from app.version import version
from tests.app.test_upload_api import otlp_json
from tests.server import Server, environment, running_server


def spanwise(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=cwd,
        env=environment({"HOME": str(cwd), **variables}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_setting_with_flag_variable_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("serve", "demo"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        for each in setting_fields():
            assert "--" + each.name.replace("_", "-") in text
            assert "SPANWISE_" + each.name.upper() in text
            assert " ".join(each.metadata["help"].split()[:4]) in text


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("serve", "demo", "import", "--version"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"spanwise {version()}\n"


@pytest.mark.parametrize(
    "arguments", [["--http-port", "no"], ["serve", "--http-port", "70000"], ["demo", "--data", " "]]
)
def test_a_wrong_value_is_named_with_a_hint(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"spanwise: {arguments[-2]}=")
    assert "\nhint: " in err


@pytest.mark.slow
def test_a_wrong_variable_is_named_and_an_unknown_one_warned_of(tmp_path: Path) -> None:
    done = spanwise("serve", cwd=tmp_path, SPANWISE_GRPC_PORT="x", SPANWISE_GRCP_PORT="1")
    assert done.returncode == 2
    assert "spanwise: SPANWISE_GRPC_PORT='x' cannot be used" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--http-port", "--grpc-port"])
def test_a_port_that_is_taken_is_named_with_its_flag(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = "--grpc-port" if flag == "--http-port" else "--http-port"
        done = spanwise("serve", flag, str(port), other, "0", "--data", ":memory:", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == f"spanwise: 127.0.0.1:{port} is in use by another program"
    assert done.stderr.splitlines()[1].startswith(f"hint: {flag} ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_file_that_is_no_database_and_one_in_use_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database at all")
    done = spanwise("serve", "--http-port", "0", "--grpc-port", "0", "--data", "notes.txt", cwd=tmp_path)
    assert done.returncode == 1
    assert "notes.txt is not a DuckDB file" in done.stderr
    with running_server(tmp_path) as server:
        data = str(tmp_path / "spanwise.duckdb")
        done = spanwise("serve", "--http-port", "0", "--grpc-port", "0", "--data", data, cwd=tmp_path)
        assert done.returncode == 1
        assert f"in use by process {server.process.pid}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_listening_elsewhere_is_warned_of(tmp_path: Path) -> None:
    with running_server(tmp_path, "--host", "0.0.0.0") as server:
        assert "everybody who reaches this address" in server.log.read_text()


@pytest.mark.slow
def test_only_loopback_is_listened_on_by_default(server: Server) -> None:
    listening = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, port = local.split(":")
            if state == "0A" and int(port, 16) in (server.http_port, server.grpc_port):
                listening.add(address)
    # gRPC listens on 127.0.0.1 by its IPv6 name.
    assert listening <= {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert "0100007F" in listening


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_the_data_stay(tmp_path: Path, number: signal.Signals) -> None:
    with running_server(tmp_path, ended_by_test=True) as server:
        with server.client() as client:
            assert client.post(
                "/v1/traces", content=otlp_json(3), headers={"Content-Type": "application/json"}
            ).is_success
        server.process.send_signal(number)
        assert server.process.wait(20) == 0
    assert "Traceback" not in server.log.read_text()
    store = open_store(str(tmp_path / "spanwise.duckdb"))
    assert store.datasets()[0].span_count == 3
    store.close()


@pytest.mark.slow
def test_import_goes_into_the_running_server_else_into_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(otlp_json(4, bad=1))
    (tmp_path / "b.json").write_bytes(b"not a trace")
    with running_server(tmp_path) as server:
        done = spanwise("import", "a.json", "b.json", "--http-port", str(server.http_port), cwd=tmp_path)
        assert done.returncode == 1
        assert re.fullmatch(rf"a\.json\tdataset 1\t4 spans\t4 traces\t{server.url}/\?dataset=1\S*\n", done.stdout)
        assert "spanwise: not imported: b.json: not a known trace format" in done.stderr
        assert "left out 1 ×" in done.stderr
    data = str(tmp_path / "spanwise.duckdb")
    done = spanwise("import", "a.json", "--name", "again", "--data", data, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "again\tdataset 2\t4 spans\t4 traces\n"), done.stderr
    assert f"it is in {data}" in done.stderr
    store = open_store(data)
    assert [(each.name, each.span_count) for each in store.datasets()][1:] == [("again", 4), ("a.json", 4)]
    store.close()


@pytest.mark.slow
def test_import_of_a_missing_file_says_so(tmp_path: Path) -> None:
    done = spanwise("import", "none.json", "--data", ":memory:", cwd=tmp_path)
    assert done.returncode == 1
    assert "none.json: No such file or directory" in done.stderr


@pytest.mark.slow
def test_demo_has_the_example_once_and_cleans_up(tmp_path: Path) -> None:
    for _ in range(2):
        with running_server(tmp_path, command="demo") as server, server.client() as client:
            demos = [each for each in client.get("/api/datasets").json()["datasets"] if each["kind"] == "demo"]
            assert len(demos) == 1
            assert demos[0]["span_count"] > 10_000
            assert client.get("/").status_code == 200
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "demo", "--http-port", "0", "--grpc-port", "0"],
        env=environment({"TMPDIR": str(scratch), "HOME": str(tmp_path)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://localhost:")
    assert list(scratch.glob("spanwise-demo-*/demo.duckdb"))
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    process.stdout.close()
    assert not list(scratch.glob("spanwise-demo-*"))
    assert not (tmp_path / ".local").exists()
