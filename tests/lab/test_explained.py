"""A fault of known size in the running lab, and what an endpoint's page says of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.lent import lent_servers
from tests.lab.load import MIX
from tests.lab.servers import Servers
from tests.server import running_server

pytestmark = pytest.mark.slow

CHECKOUT = [share for share in MIX if share.path == "/checkout/{id}"]
RATE_PER_S = 25.0
SECONDS = 44.0
"""More than a thousand requests, so that the tail is the slowest 1 %: all of it then is among the 2 %."""
INJECTED_MS = 300.0


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """One PostgreSQL and one Redis."""
    yield from lent_servers()


def report(servers: Servers, folder: Path, fault: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Checkouts sent through the lab into a server: what it says of them, and what the services counted."""
    with running_server(folder) as server:
        with Lab(endpoint=server.url, fault=fault, lean=True, servers=servers) as lab:
            load = lab.drive(seconds=SECONDS, rate=RATE_PER_S, mix=CHECKOUT)
            truth = lab.stop()
        assert load.statuses == {"200": round(SECONDS * RATE_PER_S)}
        asked = {"last": "all", "service": "gateway", "endpoint": "GET /checkout/{cart_id}"}
        with server.client() as client:
            return client.get("/api/endpoint", params=asked).json()["report"], truth


def test_a_slow_dependency_of_two_in_a_hundred_requests_comes_first_with_its_size(
    servers: Servers, tmp_path: Path
) -> None:
    """300 ms in payments for every 50th quote, found from outside at the gateway."""
    told, truth = report(servers, tmp_path, "slow_acquirer")
    assert truth["payments"]["counts"]["quotes_slow"] == truth["payments"]["counts"]["quotes"] // 50 >= 20
    assert (told["tail_quantile"], told["row"]["count"] >= 1000) == (0.99, True)
    first = told["ledger"][0]
    assert (first["category"], first["label"]) == ("own_code", "payments")
    low_ms, high_ms = first["difference_low_ns"] / 1e6, first["difference_high_ns"] / 1e6
    # The slowest half of the slow ones also had a little less luck with the usual work: a few milliseconds.
    assert low_ms - 10 <= INJECTED_MS <= high_ms + 1
    assert high_ms - low_ms < 100
    assert "in the code of payments" in told["sentence"].partition("they spend")[2].partition(",")[0]
