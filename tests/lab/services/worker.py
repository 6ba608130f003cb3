"""The shop's jobs, run by Celery: one process, one job at a time, Redis as broker."""

import time
from pathlib import Path

import httpx
from celery import Celery
from celery.signals import worker_ready, worker_shutdown

from tests.lab.faults import Fault
from tests.lab.services import truth
from tests.lab.services.environment import ORDERS_URL, REDIS_URL, SCRATCH, has, jitter_s

orders = httpx.Client(base_url=ORDERS_URL, timeout=10.0)
shop = Celery("shop", broker=REDIS_URL)
shop.conf.update(
    task_ignore_result=True,
    task_default_queue="receipts",
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


@shop.task(name="shop.send_receipt")
def send_receipt(order_id: int, placed_at_s: float) -> None:
    """Mail the receipt of one order."""
    truth.counts["receipts"] += 1
    truth.observe("receipt_queue_wait", (time.time() - placed_at_s) * 1000)
    orders.get(f"/orders/{order_id}").raise_for_status()
    time.sleep(jitter_s(260 if has(Fault.SLOW_CONSUMER) else 12))


@worker_ready.connect
def tell_ready(**_: object) -> None:
    """Let the lab know that jobs are being taken."""
    Path(SCRATCH, "worker-ready").touch()


@worker_shutdown.connect
def tell_counts(**_: object) -> None:
    """Write the counts at the end."""
    truth.write()
