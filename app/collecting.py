"""How often Python's cycle collector looks through the server's objects."""

from __future__ import annotations

import gc

_ALLOCATIONS = 50_000


def collect_seldom() -> None:
    """Each 50,000 new objects instead of each 700, and never again through those that are there now.

    A report builds some 44,000 nodes that point at each other: the collector went through them again and again, which
    took 0.25 of 0.5 s, and held the event loop up meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, 20, 50)
