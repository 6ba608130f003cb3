"""What all tests share: a store, a server of the session, and no silent skips in CI."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

# Tests speak gRPC in this process and start servers as other users, which forks: gRPC's handlers ended such a child
# before it could become PostgreSQL. Set before anything imports grpc.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

from app.store import open_store
from app.store.base import Store
from tests.server import Server, running_server

_ABSENT_DATA = ("recorded traces", "no recording", "shared/data")
"""Reasons that are fine everywhere: the recordings of real systems are not part of this repository."""


@pytest.fixture
def store() -> Iterator[Store]:
    """A store in memory."""
    opened = open_store(":memory:")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One real server for all tests that leave no trace in its settings; its live dataset is shared."""
    with running_server(
        tmp_path_factory.mktemp("server"), "--max-body-bytes", "1MiB", "--body-timeout-s", "2"
    ) as started:
        yield started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true a slow test that is skipped has failed: a missing server or browser must not look like success."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and forbidden_skip(item, str(report.longrepr)):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {report.longrepr}"
    return report


def forbidden_skip(item: pytest.Item, reason: str) -> bool:
    """Whether a skip for this reason counts as a failure."""
    if os.environ.get("CI", "").lower() != "true" or item.get_closest_marker("slow") is None:
        return False
    return not any(fine in reason for fine in _ABSENT_DATA)
