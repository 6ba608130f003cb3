"""PostgreSQL and Redis lent to tests: missing ones skip a test with what to install, but never in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab.servers import Servers, ServerUnavailable, check_packages


def lent_servers() -> Iterator[Servers]:
    """One pair of servers, for a fixture to yield from."""
    try:
        check_packages()
        running = Servers()
    except ServerUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    with running:
        yield running
