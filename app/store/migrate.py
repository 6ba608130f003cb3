"""Numbered SQL files, applied in order, each in one transaction with its record."""

from __future__ import annotations

import time
from pathlib import Path

import duckdb

from app.store.base import StoreError

_FOLDER = Path(__file__).parent / "migrations"


def known_migrations() -> list[tuple[int, Path]]:
    """The migrations of this release by number."""
    return sorted((int(path.name[:4]), path) for path in _FOLDER.glob("[0-9]*.sql"))


def migrate(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    """Brings the database to this release's schema; refuses one that a newer release or another program wrote."""
    tables = {name for (name,) in connection.execute("select table_name from duckdb_tables()").fetchall()}
    if "_migrations" not in tables:
        if tables:
            raise StoreError(f"{path} is a DuckDB file of another program: choose another --data file")
        connection.execute("create table _migrations (version integer, name varchar, applied_ns bigint)")
    [(current,)] = connection.execute("select coalesce(max(version), 0) from _migrations").fetchall()
    migrations = known_migrations()
    newest = migrations[-1][0]
    if current > newest:
        raise StoreError(
            f"{path} was written by a newer Spanwise (schema {current}, this one knows {newest}): "
            "upgrade Spanwise or choose another --data file"
        )
    for version, file in migrations:
        if version > current:
            connection.execute("begin")
            connection.execute(file.read_text())
            connection.execute("insert into _migrations values (?, ?, ?)", [version, file.stem, time.time_ns()])
            connection.execute("commit")
            # Replaying a WAL that mixes schema changes with rows is where DuckDB's crash bugs were (#25928).
            connection.execute("checkpoint")
