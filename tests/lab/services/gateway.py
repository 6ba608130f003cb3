"""The shop's front door: answers browsers, asks `orders` and `payments`, keeps the catalogue in Redis."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import redis.asyncio
from fastapi import FastAPI, HTTPException
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter, wait_none

from tests.lab.faults import Fault
from tests.lab.services import truth
from tests.lab.services.environment import ORDERS_URL, PAYMENTS_URL, REDIS_URL, has
from tests.lab.services.web import new_app

MAX_ATTEMPTS = 3
CATALOG_TTL_S = 5
LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=200, keepalive_expiry=30)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep one pool of connections to each neighbour."""
    timeout = httpx.Timeout(10.0)
    async with (
        httpx.AsyncClient(base_url=ORDERS_URL, limits=LIMITS, timeout=timeout) as orders,
        httpx.AsyncClient(base_url=PAYMENTS_URL, limits=LIMITS, timeout=timeout) as payments,
        redis.asyncio.from_url(REDIS_URL) as cache,
    ):
        app.state.orders, app.state.payments, app.state.cache = orders, payments, cache
        yield


app = new_app(lifespan)


async def fetch(client: httpx.AsyncClient, path: str) -> Any:
    """Get JSON; raises httpx.HTTPStatusError for an error status."""
    response = await client.get(path)
    response.raise_for_status()
    return response.json()


async def fetch_quote(cart_id: int) -> Any:
    """Ask `payments` for the price of paying, at most three times."""
    wait = wait_none() if has(Fault.RETRY_NO_BACKOFF) else wait_exponential_jitter(initial=0.05, max=1.0, jitter=0.05)
    attempts = AsyncRetrying(
        stop=stop_after_attempt(MAX_ATTEMPTS),
        wait=wait,
        retry=retry_if_exception_type(httpx.HTTPStatusError),
        reraise=True,
    )
    async for attempt in attempts:
        with attempt:
            truth.counts["quote_attempts"] += 1
            if attempt.retry_state.attempt_number == 2:
                truth.counts["quotes_retried"] += 1
            return await fetch(app.state.payments, f"/quotes/{cart_id}")
    raise AssertionError("unreachable: the last attempt returns or raises")


@app.get("/catalog")
async def catalog(page: int = 1) -> Any:
    """Show one page of products, from the cache where it is fresh."""
    key = f"catalog:{page}"
    cached = await app.state.cache.get(key)
    if cached is not None:
        return json.loads(cached)
    products = await fetch(app.state.orders, f"/products?page={page}")
    await app.state.cache.set(key, json.dumps(products), ex=CATALOG_TTL_S)
    return products


@app.get("/checkout/{cart_id}")
async def checkout(cart_id: int) -> Any:
    """Show a cart with stock and the price of paying."""
    truth.counts["checkouts"] += 1
    cart = await fetch(app.state.orders, f"/carts/{cart_id}")
    try:
        quote = await fetch_quote(cart_id)
    except httpx.HTTPStatusError as error:
        truth.counts["checkouts_failed"] += 1
        raise HTTPException(502, "payments are unavailable") from error
    return {"cart": cart, "quote": quote}


@app.get("/dashboard/{customer_id}")
async def dashboard(customer_id: int) -> Any:
    """Show a customer's page, made of three answers that do not depend on one another."""
    truth.counts["dashboards"] += 1
    calls = [
        (app.state.orders, f"/customers/{customer_id}/summary"),
        (app.state.orders, f"/recommendations/{customer_id}"),
        (app.state.payments, f"/customers/{customer_id}/methods"),
    ]
    if has(Fault.SERIAL_AWAITS):
        truth.counts["dashboards_serial"] += 1
        answers = [await fetch(client, path) for client, path in calls]
    else:
        answers = await asyncio.gather(*(fetch(client, path) for client, path in calls))
    return dict(zip(("summary", "recommendations", "methods"), answers, strict=True))


@app.get("/orders")
async def order_history(customer_id: int) -> Any:
    """List a customer's orders with their lines."""
    return await fetch(app.state.orders, f"/orders?customer_id={customer_id}")


@app.get("/orders/{order_id}")
async def order(order_id: int) -> Any:
    """Show one order."""
    return await fetch(app.state.orders, f"/orders/{order_id}")


@app.post("/orders", status_code=201)
async def place_order(cart_id: int) -> Any:
    """Turn a cart into an order."""
    response = await app.state.orders.post("/orders", json={"cart_id": cart_id})
    response.raise_for_status()
    return response.json()
