"""Where spans are kept; `open_store` is the only place that chooses an engine."""

from __future__ import annotations

from app.store.connection import Limits
from app.store.duckdb import DuckStore

__all__ = ["Limits", "open_store"]


def open_store(path: str, limits: Limits | None = None) -> DuckStore:
    """The store in the DuckDB file at the path (made where there is none), or `:memory:`.

    Raises StoreBusy where another process holds the file, StoreError where it cannot be used; both say what to do.
    """
    return DuckStore(path, limits)
