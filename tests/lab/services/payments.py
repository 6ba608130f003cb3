"""Payments: prices from an acquirer that is slow at times and, with the fault switched on, unavailable at times."""

import asyncio
import random
import time
from contextlib import nullcontext

from fastapi import HTTPException

from tests.lab.faults import Fault
from tests.lab.services import truth
from tests.lab.services.environment import has, jitter_s
from tests.lab.services.web import new_app

FAILING_SHARE = 0.08
BLOCKING_EVERY = 12
BLOCKING_S = 0.25
SLOW_EVERY = 50
SLOWER_S = 0.3

# Its own sequence, so that even a short run has its failures.
failures = random.Random(5)


app = new_app(nullcontext)


@app.get("/quotes/{cart_id}")
async def quote(cart_id: int) -> dict[str, int]:
    """Ask the acquirer what paying for this cart costs."""
    truth.counts["quotes"] += 1
    slow = has(Fault.SLOW_ACQUIRER) and truth.counts["quotes"] % SLOW_EVERY == 0
    if has(Fault.RETRY_NO_BACKOFF) and failures.random() < FAILING_SHARE:
        truth.counts["quotes_failed"] += 1
        await asyncio.sleep(jitter_s(140))
        raise HTTPException(503, "the acquirer does not answer")
    await asyncio.sleep(jitter_s(9))
    if slow:
        truth.counts["quotes_slow"] += 1
        await asyncio.sleep(SLOWER_S)
    return {"cart_id": cart_id, "fee_cents": 25 + cart_id % 40}


@app.get("/customers/{customer_id}/methods")
async def payment_methods(customer_id: int) -> dict[str, object]:
    """List the ways in which a customer can pay, signed for the browser."""
    truth.counts["methods"] += 1
    await asyncio.sleep(jitter_s(14))
    if has(Fault.BLOCKED_LOOP) and truth.counts["methods"] % BLOCKING_EVERY == 0:
        truth.counts["methods_blocking"] += 1
        time.sleep(BLOCKING_S)  # noqa: ASYNC251 - the fault itself: a signature computed on the event loop
    return {"customer_id": customer_id, "methods": ["card", "invoice"]}
