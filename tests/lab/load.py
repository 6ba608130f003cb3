"""Open-loop load on the shop: requests leave on time whether or not earlier ones have been answered."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import httpx

MAX_IN_FLIGHT = 400
REQUEST_TIMEOUT_S = 15.0


class Phase(NamedTuple):
    """A stretch of time with a constant rate of arrivals."""

    seconds: float
    rate_per_s: float


@dataclass(frozen=True)
class Share:
    """One endpoint's part of the load; `path` has {id} where a number goes."""

    weight: float
    method: str
    path: str
    highest_id: int

    @property
    def endpoint(self) -> str:
        """Method and path as the report names it."""
        return f"{self.method} {self.path}"


MIX = (
    Share(0.30, "GET", "/checkout/{id}", 1000),
    Share(0.28, "GET", "/catalog?page={id}", 20),
    Share(0.13, "GET", "/orders/{id}", 3000),
    Share(0.10, "GET", "/dashboard/{id}", 200),
    Share(0.10, "GET", "/orders?customer_id={id}", 200),
    Share(0.09, "POST", "/orders?cart_id={id}", 1000),
)


@dataclass(frozen=True)
class EndpointLoad:
    """What the driver saw of one endpoint; durations in milliseconds, as the client waited."""

    endpoint: str
    requests: int
    statuses: dict[str, int]
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class LoadReport:
    """What the driver sent and got; `not_sent` counts arrivals beyond the limit of requests in flight."""

    requests: int
    not_sent: int
    latest_start_ms: float
    statuses: dict[str, int]
    endpoints: tuple[EndpointLoad, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain values."""
        return asdict(self)


def warm_up(base_url: str, mix: Sequence[Share] = MIX) -> int:
    """Send each endpoint two requests, one by one; return how many. Raises httpx.HTTPError where nothing answers."""
    with httpx.Client(base_url=base_url, timeout=REQUEST_TIMEOUT_S) as client:
        for share in (*mix, *mix):
            client.request(share.method, share.path.replace("{id}", "1"))
    return 2 * len(mix)


def drive(base_url: str, phases: Sequence[Phase], mix: Sequence[Share] = MIX, seed: int = 1) -> LoadReport:
    """Send the phases one after another and wait for every answer."""
    return asyncio.run(_drive(base_url, phases, mix, random.Random(seed)))


def arrivals(phase: Phase, chance: random.Random) -> list[float]:
    """Draw the arrivals of a phase, in seconds from its start: independent users, their number fixed."""
    return sorted(chance.uniform(0.0, phase.seconds) for _ in range(round(phase.seconds * phase.rate_per_s)))


async def _drive(base_url: str, phases: Sequence[Phase], mix: Sequence[Share], chance: random.Random) -> LoadReport:
    durations_ms: defaultdict[str, list[float]] = defaultdict(list)
    statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
    not_sent = 0
    latest_start_s = 0.0
    limits = httpx.Limits(max_connections=MAX_IN_FLIGHT, max_keepalive_connections=MAX_IN_FLIGHT, keepalive_expiry=30)
    async with httpx.AsyncClient(base_url=base_url, limits=limits, timeout=REQUEST_TIMEOUT_S) as client:

        async def send(share: Share) -> None:
            url = share.path.replace("{id}", str(chance.randint(1, share.highest_id)))
            started = time.perf_counter()
            try:
                status = str((await client.request(share.method, url)).status_code)
            except httpx.HTTPError as error:
                status = type(error).__name__
            durations_ms[share.endpoint].append((time.perf_counter() - started) * 1000)
            statuses[share.endpoint][status] += 1

        running: set[asyncio.Task[None]] = set()
        phase_start = time.perf_counter()
        for phase in phases:
            for arrival_s in arrivals(phase, chance):
                delay = phase_start + arrival_s - time.perf_counter()
                if delay > 0:
                    await asyncio.sleep(delay)
                latest_start_s = max(latest_start_s, -delay)
                if len(running) >= MAX_IN_FLIGHT:
                    not_sent += 1
                    continue
                share = chance.choices(mix, [part.weight for part in mix])[0]
                task = asyncio.create_task(send(share))
                running.add(task)
                task.add_done_callback(running.discard)
            phase_start += phase.seconds
        if running:
            await asyncio.wait(running, timeout=REQUEST_TIMEOUT_S * 2)
    endpoints = tuple(_summary(name, durations_ms[name], statuses[name]) for name in sorted(durations_ms))
    return LoadReport(
        requests=sum(endpoint.requests for endpoint in endpoints),
        not_sent=not_sent,
        latest_start_ms=round(latest_start_s * 1000, 1),
        statuses=dict(sum(statuses.values(), Counter())),
        endpoints=endpoints,
    )


def _summary(endpoint: str, durations_ms: list[float], statuses: Counter[str]) -> EndpointLoad:
    ordered = sorted(durations_ms)

    def quantile(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1)

    return EndpointLoad(
        endpoint, len(ordered), dict(statuses), quantile(0.5), quantile(0.95), quantile(0.99), round(ordered[-1], 1)
    )
