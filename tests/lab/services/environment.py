"""What a service is told by its environment: the one place of the shop that reads it."""

import os
import random

from tests.lab.faults import Fault, parse_faults

FAULTS = parse_faults(os.environ.get("LAB_FAULT", "healthy"))
SERVICE = os.environ.get("OTEL_SERVICE_NAME", "unnamed")
ORDERS_URL = os.environ.get("LAB_ORDERS_URL", "")
PAYMENTS_URL = os.environ.get("LAB_PAYMENTS_URL", "")
DATABASE_URL = os.environ.get("LAB_DATABASE_URL", "")
REDIS_URL = os.environ.get("LAB_REDIS_URL", "")
SCRATCH = os.environ.get("LAB_SCRATCH", "")
LEAN = os.environ.get("LAB_LEAN", "") == "1"


def has(fault: Fault) -> bool:
    """Tell whether this run has the fault switched on."""
    return fault in FAULTS


def jitter_s(median_ms: float, spread: float = 0.3) -> float:
    """Draw a latency in seconds: log-normal around the median, cut at four times the median."""
    return min(random.lognormvariate(0.0, spread), 4.0) * median_ms / 1000
