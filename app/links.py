"""Every URL of the product, always with its dataset and window, and how they are read back from a query string."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from analysis.endpoint_reports import Region
from analysis.span import Window
from app.store.base import LIVE, Dataset

_MINUTE_NS = 60_000_000_000
LAST = {"15m": 15 * _MINUTE_NS, "1h": 60 * _MINUTE_NS, "6h": 360 * _MINUTE_NS, "24h": 1440 * _MINUTE_NS}
ALL = "all"
_STEP_NS = 5_000_000_000
"""Ends of windows up to now are rounded up to this, so that reloads within it share the cached report."""

_INSTANT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?(?:Z|[+]00:?00)?", re.ASCII
)
_LATEST_NS = 2**63 - 1


class BadScope(ValueError):
    """A dataset, window or other parameter in the query string that cannot be read; the text names the value."""


@dataclass(frozen=True)
class Scope:
    """Which spans a page looks at: a dataset and either the `last` so-and-so much of it or a fixed window.

    `last` is a key of `LAST`, `all`, or empty where `start_ns` and `end_ns` hold.
    """

    dataset_id: int
    last: str = ALL
    start_ns: int = 0
    end_ns: int = 0

    @property
    def query(self) -> dict[str, str]:
        """The parameters that make this scope again."""
        if self.last:
            return {"dataset": str(self.dataset_id), "last": self.last}
        return {
            "dataset": str(self.dataset_id),
            "from": instant_text(self.start_ns),
            "to": instant_text(self.end_ns),
        }

    def window(self, dataset: Dataset, now_ns: int) -> Window:
        """The window in nanoseconds: up to now in the live dataset, up to the last span in the others."""
        if not self.last:
            return Window(self.start_ns, self.end_ns)
        end_ns = max(dataset.last_start_ns + 1, 1)
        if self.last == ALL:
            return Window(min(dataset.first_start_ns, end_ns - 1), end_ns)
        if dataset.dataset_id == LIVE:
            end_ns = -(-now_ns // _STEP_NS) * _STEP_NS
        return Window(max(end_ns - LAST[self.last], 0), end_ns)


def parse_scope(parameters: Mapping[str, str], datasets: Sequence[Dataset], now_ns: int) -> Scope:
    """The scope that a query string names, with defaults for what it leaves out; raises BadScope."""
    dataset = _parse_dataset(parameters.get("dataset", ""), datasets)
    last, start, end = (parameters.get(name, "").strip() for name in ("last", "from", "to"))
    if start or end:
        if not (start and end):
            raise BadScope(f"“{'from' if start else 'to'}” needs “{'to' if start else 'from'}” beside it")
        start_ns, end_ns = parse_instant("from", start), parse_instant("to", end)
        if start_ns >= end_ns:
            raise BadScope(f"“from” ({start}) must be before “to” ({end})")
        return Scope(dataset.dataset_id, "", start_ns, end_ns)
    if last and last != ALL and last not in LAST:
        raise BadScope(f"last={last!r} is not one of {', '.join(LAST)}, {ALL}")
    return Scope(dataset.dataset_id, last or _default_last(dataset, now_ns))


def _parse_dataset(text: str, datasets: Sequence[Dataset]) -> Dataset:
    known = {dataset.dataset_id: dataset for dataset in datasets}
    if not text:
        return _default_dataset(datasets)
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise BadScope(f"dataset={text!r} is not a number")
    if int(text) not in known:
        raise BadScope(f"there is no dataset {int(text)}")
    return known[int(text)]


def _default_dataset(datasets: Sequence[Dataset]) -> Dataset:
    """Live once it holds spans, else the newest other one, else live."""
    live = next(dataset for dataset in datasets if dataset.dataset_id == LIVE)
    others = [dataset for dataset in datasets if dataset.dataset_id != LIVE and dataset.span_count]
    if live.span_count or not others:
        return live
    return max(others, key=lambda dataset: (dataset.created_ns, dataset.dataset_id))


def _default_last(dataset: Dataset, now_ns: int) -> str:
    quiet = dataset.last_start_ns < now_ns - LAST["1h"]
    return ALL if dataset.dataset_id != LIVE or quiet else "1h"


def parse_instant(name: str, text: str) -> int:
    """Nanoseconds since the epoch of an ISO 8601 instant in UTC, to the nanosecond; raises BadScope."""
    found = _INSTANT.fullmatch(text)
    if not found:
        raise BadScope(f"{name}={text!r} is not a time in UTC such as 2026-01-31T23:59:59.123456789Z")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    try:
        whole = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise BadScope(f"{name}={text!r} is not a time: {error}") from None
    instant_ns = int(whole.timestamp()) * 1_000_000_000 + int((found[7] or "").ljust(9, "0"))
    if not 0 <= instant_ns <= _LATEST_NS:
        raise BadScope(f"{name}={text!r} is outside 1970 to 2262")
    return instant_ns


def instant_text(instant_ns: int) -> str:
    """ISO 8601 in UTC with all nine digits of the second: `2026-01-31T23:59:59.123456789Z`."""
    seconds, rest = divmod(instant_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


@dataclass(frozen=True)
class TraceQuery:
    """The filters of the list of traces as they stand in its URL."""

    service: str = ""
    endpoint: str = ""
    min_ms: str = ""
    max_ms: str = ""
    errors_only: bool = False
    order: str = "slowest"
    offset: int = 0

    @property
    def query(self) -> dict[str, str]:
        named = {
            "service": self.service,
            "endpoint": self.endpoint,
            "min_ms": self.min_ms,
            "max_ms": self.max_ms,
            "errors": "1" if self.errors_only else "",
            "order": "" if self.order == "slowest" else self.order,
            "offset": str(self.offset or ""),
        }
        return {name: value for name, value in named.items() if value}

    def page(self, offset: int) -> TraceQuery:
        """The same filters, another page."""
        return replace(self, offset=max(0, offset))


def milliseconds_ns(name: str, text: str) -> int:
    """Nanoseconds of a decimal number of milliseconds, 0 of an empty text; raises BadScope."""
    if not text:
        return 0
    if not re.fullmatch(r"\d{1,9}(?:[.,]\d{1,6})?", text, re.ASCII):
        raise BadScope(f"{name}={text!r} is not a number of milliseconds")
    whole, _, part = text.replace(",", ".").partition(".")
    return int(whole) * 1_000_000 + int(part.ljust(6, "0") or 0)


def milliseconds_text(duration_ns: int) -> str:
    """The number that `milliseconds_ns` reads back."""
    whole, part = divmod(duration_ns, 1_000_000)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".")


REGION_PARAMETERS = ("began_from", "began_to", "min_ms", "max_ms")


def region_query(region: Region) -> dict[str, str]:
    """The parameters that `parse_region` reads back; bounds that exclude nothing are left out."""
    ends = Region()
    return {
        name: text
        for name, text, bound, open_end in (
            ("began_from", instant_text(region.from_ns), region.from_ns, ends.from_ns),
            ("began_to", instant_text(region.to_ns), region.to_ns, ends.to_ns),
            ("min_ms", milliseconds_text(region.low_ns), region.low_ns, ends.low_ns),
            ("max_ms", milliseconds_text(region.high_ns), region.high_ns, ends.high_ns),
        )
        if bound != open_end
    }


def parse_region(parameters: Mapping[str, str]) -> Region | None:
    """The requests that a query string chooses by when they began and how long they took; None where it does not.

    Raises BadScope.
    """
    given = {name: parameters.get(name, "").strip() for name in REGION_PARAMETERS}
    if not any(given.values()):
        return None
    ends = Region()
    region = Region(
        parse_instant("began_from", given["began_from"]) if given["began_from"] else ends.from_ns,
        parse_instant("began_to", given["began_to"]) if given["began_to"] else ends.to_ns,
        milliseconds_ns("min_ms", given["min_ms"]),
        milliseconds_ns("max_ms", given["max_ms"]) if given["max_ms"] else ends.high_ns,
    )
    check_region(region, given)
    return region


def check_region(region: Region, given: Mapping[str, str]) -> None:
    """Raises BadScope where a region can hold nothing; `given` are its four bounds by name, in order, as written."""
    (began_from, first), (began_to, last), (shortest, low), (longest, high) = given.items()
    for name, text, bound, other_name, other_text, other in (
        (began_from, first, region.from_ns, began_to, last, region.to_ns),
        (shortest, low, region.low_ns, longest, high, region.high_ns),
    ):
        if bound >= other:
            raise BadScope(f"“{name}” ({text or 0}) must be below “{other_name}” ({other_text})")


def span_text(span_id: int) -> str:
    """A span id as 16 lower-case hex digits."""
    return f"{span_id:016x}"


def parse_span(text: str) -> int:
    """The span id of 1 to 16 hex digits; raises BadScope."""
    if not re.fullmatch(r"[0-9a-fA-F]{1,16}", text, re.ASCII):
        raise BadScope(f"span={text!r} is not a span id of 16 hex digits")
    return int(text, 16)


def parse_trace_id(name: str, text: str) -> str:
    """The trace id in lower case; raises BadScope."""
    if not re.fullmatch(r"[0-9a-fA-F]{32}", text, re.ASCII):
        raise BadScope(f"{name}={text[:80]!r} is not a trace id of 32 hex digits")
    return text.lower()


def overview_url(scope: Scope) -> str:
    return _url("/", scope)


def endpoint_url(scope: Scope, service: str, endpoint: str, region: Region | None = None) -> str:
    """Why its tail is slow, or what the requests of a region do that the others do not."""
    chosen = region_query(region) if region else {}
    return _url("/endpoint", scope, service=service, endpoint=endpoint, **chosen)


def queues_url(scope: Scope) -> str:
    return _url("/queues", scope)


def retries_url(scope: Scope) -> str:
    return _url("/retries", scope)


def fixes_url(scope: Scope) -> str:
    return _url("/fixes", scope)


def fix_url(scope: Scope, fingerprint: str) -> str:
    return _url(f"/fix/{quote(fingerprint, safe='')}", scope)


def detector_url(scope: Scope, name: str) -> str:
    return _url(f"/detectors/{quote(name, safe='')}", scope)


def traces_url(scope: Scope, filters: TraceQuery | None = None) -> str:
    return _url("/traces", scope, **(filters or TraceQuery()).query)


def trace_url(scope: Scope, trace_id: str, span_id: int | None = None, all_rows: bool = False) -> str:
    """The waterfall of one trace, on one of its spans where `span_id` is given (0 is a valid id)."""
    more = {"rows": "all"} if all_rows else {}
    if span_id is None:
        return _url(f"/trace/{quote(trace_id, safe='')}", scope, **more)
    span = span_text(span_id)
    return _url(f"/trace/{quote(trace_id, safe='')}", scope, span=span, **more) + f"#s-{span}"


def compare_url(scope: Scope, trace_id: str, span_id: int, other_id: str, other_span_id: int) -> str:
    """Two requests laid over each other."""
    spans = {"span": span_text(span_id), "other_span": span_text(other_span_id)}
    return _url("/compare", scope, trace=trace_id, other=other_id, **spans)


def send_url(scope: Scope) -> str:
    return _url("/send", scope)


def upload_url(scope: Scope) -> str:
    return _url("/upload", scope)


def datasets_url(scope: Scope) -> str:
    return _url("/datasets", scope)


def settings_url(scope: Scope) -> str:
    return _url("/settings", scope)


def _url(path: str, scope: Scope, **more: str) -> str:
    return f"{path}?{urlencode({**scope.query, **more})}"
