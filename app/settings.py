"""Every setting once: a field is an environment variable, a flag, its help and a row of the settings page.

The environment is read nowhere else; a value that cannot be used names its variable or flag.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

MIB = 2**20
PREFIX = "SPANWISE_"
_BYTES = re.compile(r"(\d{1,18})\s*([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9])?|\[[0-9a-f:]+\]", re.ASCII)


class BadSetting(ValueError):
    """A value that cannot be used; the text names the variable or flag, the value and what would do."""


def _port(text: str) -> int:
    return _whole(text, 0, 65535, "a port number from 0 to 65535 (0 takes a free one)")


def _count(text: str) -> int:
    return _whole(text, 1, 64, "a whole number from 1 to 64")


def _connections(text: str) -> int:
    return _whole(text, 16, 100_000, "a whole number from 16 to 100000")


def _whole(text: str, low: int, high: int, meaning: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not low <= int(text) <= high:
        raise ValueError(meaning)
    return int(text)


def _size(text: str) -> int:
    found = _BYTES.fullmatch(text)
    size = int(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " ") if found else 0
    if not 1024 <= size <= 2**50:
        raise ValueError("a number of bytes of at least 1 KiB, such as 67108864 or 64MiB")
    return size


def _size_or_automatic(text: str) -> int:
    return 0 if text in ("", "0", "auto") else _size(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII) or not 0.1 <= float(text) <= 86400:
        raise ValueError("a number of seconds from 0.1 to 86400")
    return float(text)


def _filled(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("a value that is not empty")
    return text.strip()


def _host_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    if not all(_HOST_NAME.fullmatch(name) for name in names):
        raise ValueError("host names without port, separated by commas, such as spanwise.internal,10.0.0.5")
    return names


def _setting(default: Any, parse: Callable[[str], object], help_text: str) -> Any:
    return field(default=default, metadata={"parse": parse, "help": help_text})


@dataclass(frozen=True)
class Settings:
    """What the server was told, and where each value came from."""

    host: str = _setting(
        "127.0.0.1", _filled, "Address to listen on; the default takes connections from this machine only."
    )
    http_port: int = _setting(4318, _port, "Port of the pages and of OTLP over HTTP.")
    grpc_port: int = _setting(4317, _port, "Port of OTLP over gRPC.")
    data: str = _setting("", _filled, "Database file; made where there is none. “:memory:” keeps nothing.")
    allowed_hosts: tuple[str, ...] = _setting(
        (), _host_names, "Names besides localhost under which browsers and senders reach this server."
    )
    max_body_bytes: int = _setting(
        64 * MIB, _size, "Largest OTLP request, as sent and after decompression; larger ones are answered with 413."
    )
    body_timeout_s: float = _setting(
        30.0, _seconds, "Time in which the whole body of an OTLP request must arrive; after it the answer is 408."
    )
    header_timeout_s: float = _setting(
        10.0, _seconds, "Time in which the head of an HTTP request must arrive; after it the answer is 408."
    )
    max_connections: int = _setting(
        2000,
        _connections,
        "Connections that may be open on each of the two ports; beyond it those that do nothing are closed.",
    )
    ingest_queue_bytes: int = _setting(
        256 * MIB, _size, "Bytes that may wait for storing; beyond it senders are asked to retry."
    )
    decode_processes: int = _setting(
        max(1, min(4, (os.cpu_count() or 2) // 2)), _count, "Processes that decode what was received."
    )
    max_upload_bytes: int = _setting(1024 * MIB, _size, "Largest trace file that may be uploaded.")
    query_timeout_s: float = _setting(30.0, _seconds, "Time after which a page's query is stopped.")
    query_threads: int = _setting(4, _count, "Queries that may run at the same time.")
    memory_limit_bytes: int = _setting(
        0,
        _size_or_automatic,
        "Memory for the database; “auto” takes a quarter of the machine's, at most 4 GiB.",
    )
    checkpoint_bytes: int = _setting(
        256 * MIB,
        _size,
        "Length of the database's log at which it is merged into the file: longer stores faster and starts slower.",
    )
    min_free_bytes: int = _setting(
        256 * MIB, _size, "Disk that stays free; with less, spans and files are refused until there is room again."
    )
    stop_grace_s: float = _setting(10.0, _seconds, "Time that requests under way get to finish when the server stops.")
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where each value came from, by field: `flag`, `environment` or `default`."""


@dataclass(frozen=True)
class SettingRow:
    """One setting as the settings page and `--help` show it."""

    name: str
    value: str
    origin: str
    flag: str
    variable: str
    help: str


def setting_fields() -> tuple[Field[Any], ...]:
    """The fields that are settings, in the order of the page."""
    return tuple(each for each in fields(Settings) if "parse" in each.metadata)


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable_name(name: str) -> str:
    return PREFIX + name.upper()


def settings_from(environ: Mapping[str, str] | None = None, flags: Mapping[str, str | None] | None = None) -> Settings:
    """Settings from flags (None is a flag not given), else the environment, else defaults; raises BadSetting."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {"data": default_data(environ)}
    origins = {each.name: "default" for each in setting_fields()}
    for each in setting_fields():
        name, given = each.name, (flags or {}).get(each.name)
        if given is not None:
            values[name] = _parsed(each, flag_name(name), given)
            origins[name] = "flag"
        elif variable_name(name) in environ:
            values[name] = _parsed(each, variable_name(name), environ[variable_name(name)])
            origins[name] = "environment"
    return Settings(**values, origins=origins)


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Variables that look like settings and are none: a slip of the pen, or what Kubernetes adds for a service."""
    known = {variable_name(each.name) for each in setting_fields()}
    return sorted(
        name for name in (os.environ if environ is None else environ) if name.startswith(PREFIX) and name not in known
    )


def _parsed(each: Field[Any], source: str, text: str) -> object:
    try:
        return each.metadata["parse"](text.strip())
    except ValueError as error:
        raise BadSetting(f"{source}={text!r} cannot be used: expected {error}") from None


def default_data(environ: Mapping[str, str]) -> str:
    """The database file in the user's data folder (XDG Base Directory Specification)."""
    given = environ.get("XDG_DATA_HOME", "")
    folder = Path(given) if given.startswith("/") else Path(environ.get("HOME") or Path.home()) / ".local" / "share"
    return str(folder / "spanwise" / "spanwise.duckdb")


def rows(settings: Settings) -> list[SettingRow]:
    """Every setting with its value, where that came from, flag, variable and help."""
    return [
        SettingRow(
            each.name,
            _shown(each.name, getattr(settings, each.name)),
            settings.origins.get(each.name, "default"),
            flag_name(each.name),
            variable_name(each.name),
            each.metadata["help"],
        )
        for each in setting_fields()
    ]


def _shown(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value // MIB} MiB" if value and value % MIB == 0 else (str(value) if value else "auto")
    if name.endswith("_s"):
        return f"{value:g} s"
    return str(value)
