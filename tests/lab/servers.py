"""PostgreSQL and Redis from their Debian packages, on free ports in a scratch folder."""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.processes import ProcessFailed, ProcessGroup

SCHEMA = Path(__file__).parent / "services" / "schema.sql"
START_TIMEOUT_S = 30.0


class ServerUnavailable(RuntimeError):
    """A server program or a package is not installed; names what to install."""


REQUIREMENTS = Path(__file__).parent / "requirements.txt"
PACKAGES = (
    "asyncpg",
    "celery",
    "fastapi",
    "redis",
    "sqlalchemy",
    "tenacity",
    "opentelemetry.distro",
    "opentelemetry.exporter.otlp.json.http",
    "opentelemetry.exporter.otlp.proto.grpc",
    "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry.instrumentation.asyncpg",
    "opentelemetry.instrumentation.celery",
    "opentelemetry.instrumentation.fastapi",
    "opentelemetry.instrumentation.httpx",
    "opentelemetry.instrumentation.redis",
    "opentelemetry.instrumentation.sqlalchemy",
)


@dataclass(frozen=True)
class ServerPrograms:
    """Where the server programs are."""

    initdb: Path
    postgres: Path
    psql: Path
    redis_server: Path


def find_programs() -> ServerPrograms:
    """Find the newest PostgreSQL and Redis. Raises ServerUnavailable."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: _version(folder.parent.name))
    for folder in [*reversed(versions), *folders]:
        if all((folder / name).exists() for name in ("initdb", "postgres", "psql")):
            break
    else:
        raise ServerUnavailable("PostgreSQL is not installed: apt-get install postgresql")
    redis_server = shutil.which("redis-server")
    if redis_server is None:
        raise ServerUnavailable("Redis is not installed: apt-get install redis-server")
    return ServerPrograms(folder / "initdb", folder / "postgres", folder / "psql", Path(redis_server))


def check_packages() -> None:
    """Raise ServerUnavailable where a package that the shop needs is not installed."""
    missing = [name for name in PACKAGES if not _is_installed(name)]
    if missing:
        raise ServerUnavailable(f"{', '.join(missing)} not installed: pip install -r {REQUIREMENTS}")


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Tell whether something listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Servers:
    """One PostgreSQL with the shop's tables and one empty Redis, for as long as the context lasts.

    Raises ServerUnavailable where a program is missing and ProcessFailed where one does not start.
    """

    def __init__(self) -> None:
        self._programs = find_programs()
        self.postgres_port = free_port()
        self.redis_port = free_port()
        self.database_url = f"postgresql+asyncpg://shop@127.0.0.1:{self.postgres_port}/shop"
        self.redis_url = f"redis://127.0.0.1:{self.redis_port}/0"

    def __enter__(self) -> Self:
        """Start both; a failure on the way stops what had started."""
        self._scratch = Path(tempfile.mkdtemp(prefix="lab-servers-"))
        self._processes = ProcessGroup(self._scratch)
        try:
            self._start_redis()
            self._start_postgres()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop both and remove their files."""
        self.close()

    def close(self) -> None:
        """Stop both servers and remove the scratch folder; a second call does nothing."""
        self._processes.stop(["postgres", "redis"], signal.SIGINT, timeout_s=10)
        self._processes.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def pids(self) -> dict[str, int]:
        """Return the process ids of the running servers."""
        return self._processes.pids()

    def _start_redis(self) -> None:
        redis = [str(self._programs.redis_server), "--port", str(self.redis_port), "--bind", "127.0.0.1"]
        self._processes.start("redis", [*redis, "--save", "", "--appendonly", "no", "--dir", str(self._scratch)])
        self._processes.wait_until("redis", lambda: accepts(self.redis_port), START_TIMEOUT_S)

    def _start_postgres(self) -> None:
        user = _unprivileged_user()
        data = self._scratch / "postgres"
        data.mkdir()
        if user is not None:
            # PostgreSQL refuses to run as root, and its own user has to reach the folder.
            self._scratch.chmod(0o755)
            shutil.chown(data, user)
        initdb = [str(self._programs.initdb), "--pgdata", str(data), "--username", "shop", "--auth", "trust"]
        _run([*initdb, "--encoding", "UTF8", "--locale", "C", "--no-sync"], user, self._scratch)
        options = {
            "port": str(self.postgres_port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "100",
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._processes.start("postgres", [str(self._programs.postgres), "-D", str(data), *flags], user=user)
        ready = [str(self._programs.psql), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--username", "shop"]
        ready += ["--host", "127.0.0.1", "--port", str(self.postgres_port)]

        def answers() -> bool:
            probe = [*ready, "--dbname", "postgres", "--command", "select 1"]
            return subprocess.run(probe, capture_output=True, check=False, timeout=10).returncode == 0

        self._processes.wait_until("postgres", answers, START_TIMEOUT_S)
        _run([*ready, "--dbname", "postgres", "--command", "create database shop"], None, self._scratch)
        _run([*ready, "--dbname", "shop", "--file", str(SCHEMA)], None, self._scratch)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split(".") if part.isdecimal())


def _unprivileged_user() -> str | None:
    """Name the user to run PostgreSQL as; None means the current one."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _run(command: list[str], user: str | None, folder: Path) -> None:
    """Run a set-up command to its end. Raises ProcessFailed with what it printed."""
    done = subprocess.run(command, user=user, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise ProcessFailed(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")
