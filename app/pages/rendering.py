"""Templates and what they may use: filters for numbers, links of the page's own scope, marks.

Templates compute nothing: a number looks the same everywhere because only the filters here write it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from analysis.endpoint_reports import Exemplar, Region
from analysis.ledger import Category
from analysis.quantiles import Quantile
from analysis.trace_reports import ComparedRequest
from analysis.wording import (
    count_text,
    duration_text,
    interval_text,
    number_text,
    quantile_name,
    share_text,
    sigma_text,
)
from app import links
from app.charts.categories import MEANINGS, NAMES
from app.links import Scope, TraceQuery
from app.pages.attributes import attribute_rows
from app.pages.marks import SPARK_HEIGHT, SPARK_WIDTH, kind_bar, kind_of, sparkline
from app.pages.verdict import change_sentence, gain_quantile_text
from app.resources import asset_folder
from app.store.base import NO_DAMAGE, Damage, Dataset, Store

WINDOWS = (
    ("15m", "last 15 min"),
    ("1h", "last hour"),
    ("6h", "last 6 h"),
    ("24h", "last 24 h"),
    ("all", "all of it"),
)
NAVIGATION = (
    ("/", "Overview", "overview"),
    ("/queues", "Queues", "queues"),
    ("/retries", "Retries", "retries"),
    ("/fixes", "Fixes", "fixes"),
    ("/traces", "Traces", "traces"),
    ("/ingest", "Ingest", "ingest"),
    ("/send", "Send data", "send"),
    ("/upload", "Upload", "upload"),
    ("/settings", "Settings", "settings"),
)
_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")


@dataclass(frozen=True)
class Links:
    """`app.links` with the page's scope filled in."""

    scope: Scope

    def overview(self) -> str:
        return links.overview_url(self.scope)

    def endpoint(self, service: str, endpoint: str, region: Region | None = None) -> str:
        return links.endpoint_url(self.scope, service, endpoint, region)

    def queues(self) -> str:
        return links.queues_url(self.scope)

    def retries(self) -> str:
        return links.retries_url(self.scope)

    def fixes(self) -> str:
        return links.fixes_url(self.scope)

    def fix(self, fingerprint: str) -> str:
        return links.fix_url(self.scope, fingerprint)

    def detector(self, name: str) -> str:
        return links.detector_url(self.scope, name)

    def trace(self, trace_id: str, span_id: int | None = None, all_rows: bool = False) -> str:
        return links.trace_url(self.scope, trace_id, span_id, all_rows)

    def compare(self, this: Exemplar | ComparedRequest, other: Exemplar | ComparedRequest) -> str:
        return links.compare_url(self.scope, this.trace_id, this.span_id, other.trace_id, other.span_id)

    def traces(self, filters: TraceQuery | None = None) -> str:
        return links.traces_url(self.scope, filters)

    def endpoint_traces(self, service: str, endpoint: str, errors_only: bool = False) -> str:
        return links.traces_url(self.scope, TraceQuery(service, endpoint, errors_only=errors_only))

    def dataset(self, dataset_id: int) -> str:
        """The overview of another dataset, all of it."""
        return links.overview_url(Scope(dataset_id))

    def send(self) -> str:
        return links.send_url(self.scope)

    def upload(self) -> str:
        return links.upload_url(self.scope)

    def datasets(self) -> str:
        return links.datasets_url(self.scope)

    def settings(self) -> str:
        return links.settings_url(self.scope)


@dataclass(frozen=True)
class View:
    """What the frame around every page shows."""

    scope: Scope
    dataset: Dataset
    datasets: tuple[Dataset, ...]
    from_ns: int
    to_ns: int
    carried: tuple[tuple[str, str], ...]
    """Other parameters of this URL, kept when the dataset or window is changed."""
    as_of_ns: int = 0
    """When the oldest report on the page was read from the store, 0 where there is none."""
    damage: Damage = NO_DAMAGE

    @property
    def window_fixed(self) -> bool:
        return not self.scope.last


def signed_duration(duration_ns: float) -> str:
    """A difference: `+84.3 ms`, `−2.10 s`."""
    return f"+{duration_text(duration_ns)}" if duration_ns > 0 else duration_text(duration_ns)


def saved_duration(saved_ns: float) -> str:
    """What a fix takes away: `−84.3 ms`."""
    return (
        f"−{duration_text(saved_ns)}" if saved_ns > 0 else f"+{duration_text(-saved_ns)}" if saved_ns else "no change"
    )


def value_with_unit(quantile: Quantile) -> str:
    return "no data" if quantile.value_ns is None else duration_text(quantile.value_ns)


def interval_of(quantile: Quantile) -> str:
    """The interval beside a quantile, or why there is none."""
    if quantile.value_ns is None:
        return ""
    if quantile.low_ns is None or quantile.high_ns is None:
        return f"n = {count_text(quantile.count)}, too small"
    return interval_text(quantile.low_ns, quantile.high_ns)


def rate_text(rate_per_s: float) -> str:
    """Requests per second, minute or hour, whichever gives a number above one."""
    for factor, unit in ((1, "/s"), (60, "/min"), (3600, "/h")):
        if rate_per_s * factor >= 1:
            return f"{rate_per_s * factor:.3g} {unit}"
    rate_per_day = rate_per_s * 86400
    return f"{rate_per_day:.3g} /day" if rate_per_day >= 0.01 or not rate_per_day else "< 0.01 /day"


def bytes_text(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError


def instant_short(instant_ns: int) -> str:
    """`2026-01-31 23:59:59.123 UTC`; the script replaces it by local time and keeps UTC on hover."""
    text = links.instant_text(instant_ns)
    return f"{text[:10]} {text[11:23]} UTC"


def kind_name(kind: int) -> str:
    return _KINDS[kind] if 0 <= kind < len(_KINDS) else "unspecified"


def percent_one(share: float) -> str:
    return f"{share:.2f}"


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The one template environment: autoescape for every template, undefined names are errors."""
    templates = Environment(
        loader=FileSystemLoader(asset_folder("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        duration=duration_text,
        signed=signed_duration,
        saved=saved_duration,
        count=count_text,
        number=number_text,
        share=share_text,
        sigma=sigma_text,
        rate=rate_text,
        filesize_text=bytes_text,
        instant=instant_short,
        iso=links.instant_text,
        value=value_with_unit,
        interval=interval_of,
        gain_quantile=gain_quantile_text,
        quantile_name=quantile_name,
        change_sentence=change_sentence,
        span_hex=links.span_text,
        kind=kind_name,
        attributes=attribute_rows,
        sparkline=sparkline,
        kind_bar=kind_bar,
        kind_of=kind_of,
        ratio=percent_one,
        category_name=lambda category: NAMES[Category(category)],
        category_meaning=lambda category: MEANINGS[Category(category)],
    )
    templates.globals.update(
        interval_text=interval_text,
        windows=WINDOWS,
        navigation=NAVIGATION,
        spark_width=SPARK_WIDTH,
        spark_height=SPARK_HEIGHT,
        all_categories=tuple(Category),
    )
    return templates


def compile_templates() -> None:
    """Reads all templates: 0.17 s that the first page would take longer."""
    for name in environment().list_templates():
        environment().get_template(name)


def render(
    template: str, view: View | None, active: str, status: int = 200, damage: Damage | None = None, **context: Any
) -> HTMLResponse:
    """One page; `view` is None only for errors, which may strike before the scope is known."""
    page = environment().get_template(template)
    to = Links(view.scope if view else Scope(0))
    known = damage or (view.damage if view else NO_DAMAGE)
    return HTMLResponse(page.render(view=view, to=to, active=active, damage=known, **context), status)


def error_page(request: Request, status: int, title: str, message: str, hint: str = "") -> HTMLResponse:
    """A page for a request that failed; shows nothing of the inside."""
    store: Store | None = getattr(request.app.state, "store", None) if "app" in request.scope else None
    damage = store.damage() if store else None
    words = {"error_title": title, "message": message, "hint": hint}
    return render("error.html", None, "", status, damage, error_status=status, **words)
