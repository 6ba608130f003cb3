"""The faults that the lab can inject, and how they are written in the variable LAB_FAULT."""

from enum import StrEnum


class Fault(StrEnum):
    """One fault; `healthy` is the absence of all."""

    N_PLUS_ONE = "n_plus_one"
    SERIAL_AWAITS = "serial_awaits"
    SMALL_POOL = "small_pool"
    RETRY_NO_BACKOFF = "retry_no_backoff"
    BLOCKED_LOOP = "blocked_loop"
    SLOW_CONSUMER = "slow_consumer"
    SLOW_ACQUIRER = "slow_acquirer"


def parse_faults(text: str) -> frozenset[Fault]:
    """Read a comma-separated list; `healthy` and the empty text mean none. Raises ValueError for an unknown name."""
    names = {name.strip() for name in text.split(",")} - {"", "healthy"}
    unknown = names - {fault.value for fault in Fault}
    if unknown:
        raise ValueError(f"unknown fault {sorted(unknown)}: use {', '.join(Fault)} or healthy")
    return frozenset(Fault(name) for name in names)
