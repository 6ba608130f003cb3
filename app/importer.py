"""`spanwise import`: trace files into the server that is running, else straight into its database file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.ingest.importing import ImportRefused, import_file
from app.main import store_limits
from app.settings import Settings
from app.sockets import address_text
from app.store import open_store
from app.store.base import Store

_ANSWER_TIMEOUT_S = 600.0


class ImportFailed(Exception):
    """At least one file was not imported; the text names them all."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Imported:
    """What became of one file."""

    name: str
    dataset_id: int
    spans: int
    traces: int
    refused: tuple[tuple[str, int, str], ...]
    """Reason, count and first place of spans or lines that were left out."""
    url: str
    """Its page where a server runs, else empty."""
    stored_in: str
    """The database file where no server took it, else empty."""


def import_files(
    settings: Settings, files: Sequence[Path], name: str | None, imported: Callable[[Imported], None]
) -> None:
    """Imports every file, telling of each; raises ImportFailed after all were tried, StoreError."""
    base = f"http://{address_text(_reachable(settings.host), settings.http_port)}"
    into_server = settings.origins.get("data") != "flag" and _is_spanwise(base)
    failures: list[str] = []
    store = None if into_server else open_store(settings.data, store_limits(settings))
    try:
        for file in files:
            try:
                _require_file(file)
                if store is None:
                    done = _through_server(base, file, name)
                else:
                    done = _into_store(store, settings.data, file, name)
            except (ImportFailed, ImportRefused) as error:
                failures.append(f"{file}: {_one_line(error)}")
            else:
                imported(done)
    finally:
        if store is not None:
            store.close()
    if failures:
        raise ImportFailed("not imported: " + "; ".join(failures), "nothing of these files was stored")


def _one_line(error: ImportFailed | ImportRefused) -> str:
    return str(error).replace("\nhint: ", "; ")


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _is_spanwise(base: str) -> bool:
    try:
        answer = httpx.get(f"{base}/healthz", timeout=5.0, trust_env=False)
        return bool(answer.status_code == 200 and answer.json().get("spanwise") == "alive")
    except (httpx.HTTPError, ValueError, AttributeError):
        return False


def _require_file(file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise ImportFailed(error.strerror or "cannot be read") from None


def _through_server(base: str, file: Path, name: str | None) -> Imported:
    try:
        with file.open("rb") as content:
            answer = httpx.post(
                f"{base}/api/upload",
                params={"name": name or file.name},
                content=content,
                headers={"Content-Type": "application/octet-stream"},
                timeout=_ANSWER_TIMEOUT_S,
                trust_env=False,
            )
        body = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise ImportFailed(f"the server at {base} did not answer: {error}") from None
    if answer.status_code != 201:
        raise ImportFailed("; ".join(filter(None, (body.get("error", ""), body.get("hint", "")))))
    refused = tuple((each["reason"], each["count"], each["first"]) for each in body["rejected"] + body["unreadable"])
    return Imported(body["name"], body["dataset"], body["spans"], body["traces"], refused, base + body["url"], "")


def _into_store(store: Store, data: str, file: Path, name: str | None) -> Imported:
    dataset = import_file(store, file, name or "")
    tally = dataset.tally
    refused = tuple((each.reason, each.count, each.first) for each in tally.rejected + tally.unreadable)
    return Imported(dataset.name, dataset.dataset_id, dataset.span_count, dataset.trace_count, refused, "", data)
