"""Every page through its real handler, with hostile names in every field of every report."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from analysis.compare import compare_traces
from analysis.density_step import DensityStep
from analysis.fixes import fixes
from analysis.overview import overview
from analysis.queueing import queue_waits
from analysis.reports import FixesReport, QueuesReport, RetriesReport, TailSampling
from analysis.retries import retry_costs
from analysis.search import trace_list
from analysis.span import Window
from analysis.tail import endpoint_report
from analysis.tail_sampling import tail_sampling_text, withheld, without_quantiles
from analysis.trace_view import span_detail, trace_report
from app.links import Scope
from app.otlp.columns import Rejection, Tally
from app.pages import data as data_pages
from app.pages.compare import compare_page
from app.pages.context import Page
from app.pages.endpoint import endpoint_page
from app.pages.fixes import detector_page, fix_page, fixes_page
from app.pages.ingest import ingest_document
from app.pages.overview import overview_page, send_page
from app.pages.rendering import View, environment, error_page
from app.pages.traces import trace_page, traces_page
from app.pages.waits import queues_page, retries_page
from app.resources import asset_folder
from app.self_report import SelfReport, StoreState
from app.settings import settings_from
from app.store.base import Dataset
from tests.app import reports_made as made
from tests.app.self_report_made import nothing_came, self_report_made

REPORTS: dict[Callable[..., Any], Any] = {
    overview: made.overview_report(),
    fixes: made.fixes_report(),
    endpoint_report: made.endpoint_report(),
    queue_waits: made.queues_report(),
    retry_costs: made.retries_report(),
    trace_report: made.trace_report(),
    compare_traces: made.trace_comparison(),
    span_detail: made.span_detail(),
    trace_list: made.trace_list(),
}
TALLY = Tally(
    found=9,
    accepted=5,
    duplicates=1,
    rejected=(Rejection(made.HOSTILE, 2, made.HOSTILE),),
    unreadable=(Rejection(made.HOSTILE, 1, ""),),
    other_signals=4,
    warnings=(made.HOSTILE,),
)
LIVE = Dataset(0, "live", "live", "", "", 0, 0, 0, 0, 0, Tally())
UPLOAD = Dataset(
    3, made.HOSTILE, "upload", made.HOSTILE, made.HOSTILE, made.START, 9000, 1000, made.START, made.START, TALLY
)
DEMO = Dataset(4, "example", "demo", "", "", made.START, 9000, 1000, made.START, made.START, Tally())


class MadePage(Page):
    """A page whose analyses answer with hand-made reports."""

    async def run(self, function: Callable[..., Any], *arguments: object) -> Any:
        return self.request.state.reports[function]


def page(query: str = "", path: dict[str, str] | None = None, dataset: Dataset = UPLOAD, **replaced: Any) -> Page:
    reports = {
        **REPORTS,
        **{function: replaced[function.__name__] for function in REPORTS if function.__name__ in replaced},
    }
    app = SimpleNamespace(state=SimpleNamespace(settings=settings_from({}, {}), store=None))
    request = Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [],
            "query_string": query.encode(),
            "path_params": path or {},
            "app": app,
            "state": {"reports": reports},
        }
    )
    carried = (("service", made.HOSTILE), ("endpoint", made.HOSTILE))
    view = View(Scope(dataset.dataset_id), dataset, (LIVE, UPLOAD, DEMO), made.START, made.START + 10**9, carried)
    return MadePage(request, view, Window(made.START, made.START + 10**9), made.START)


async def ingest(report: SelfReport, scoped: bool = True) -> Response:
    return ingest_document(page().view if scoped else None, report)


TRACE = {"trace_id": made.TRACE}
PAGES: dict[str, Callable[[], Any]] = {
    "overview.html": lambda: overview_page(page()),
    "endpoint.html": lambda: endpoint_page(page("service=a&endpoint=b")),
    "queues.html": lambda: queues_page(page()),
    "retries.html": lambda: retries_page(page()),
    "fixes.html": lambda: fixes_page(page()),
    "fix.html": lambda: fix_page(page(path={"fingerprint": "00ff00ff00ff00ff"})),
    "detector.html": lambda: detector_page(page(path={"name": "pool-wait"})),
    "trace.html": lambda: trace_page(page("span=2", TRACE)),
    "compare.html": lambda: compare_page(page(f"trace={made.TRACE}&other={made.TRACE}&span=2")),
    "traces.html": lambda: traces_page(page("offset=50&min_ms=1.5&errors=1")),
    "send.html": lambda: overview_page(page(dataset=LIVE)),
    "upload.html": lambda: data_pages._form(page(), data_pages.Failure(made.HOSTILE, made.HOSTILE), 400),
    "datasets.html": lambda: data_pages.datasets_page(page()),
    "ingest.html": lambda: ingest(self_report_made()),
    "settings.html": lambda: data_pages.settings_page(page()),
}
VARIANTS: dict[str, Callable[[], Any]] = {
    "no span selected": lambda: trace_page(page("", TRACE)),
    "the same calls": lambda: compare_page(
        page(f"trace={made.TRACE}&other={made.TRACE}", compare_traces=replace(made.trace_comparison(), calls=()))
    ),
    "whole values": lambda: trace_page(page("span=2&whole=1&rows=all", TRACE)),
    "send": lambda: send_page(page()),
    "no findings": lambda: overview_page(page(fixes=FixesReport((), (), (), 0, 0))),
    "no waits": lambda: queues_page(page(queue_waits=QueuesReport((), (), ()))),
    "no retries": lambda: retries_page(page(retry_costs=RetriesReport((), 0, 0, ()))),
    "upload": lambda: data_pages.upload_page(page()),
    "ingest without a store": lambda: ingest(self_report_made(store=StoreState(None, None, None, made.HOSTILE)), False),
    "nothing came": lambda: ingest(nothing_came()),
}


@dataclass
class Seen(HTMLParser):
    """What a browser would make of a page."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def rendered(make: Callable[[], Any]) -> str:
    return str(asyncio.run(make()).body.decode())


@pytest.fixture(scope="module", params=[*PAGES, *VARIANTS, "error.html"])
def document(request: pytest.FixtureRequest) -> str:
    if request.param == "error.html":
        answer = error_page(Request({"type": "http"}), 404, made.HOSTILE, made.HOSTILE, made.HOSTILE)
        return bytes(answer.body).decode()
    return rendered({**PAGES, **VARIANTS}[request.param])


def test_hostile_names_stay_text(document: str) -> None:
    seen = Seen()
    seen.feed(document)
    for tag, attributes in seen.tags:
        assert tag not in ("img", "iframe", "object", "style")
        assert not [name for name in attributes if name.startswith("on")]
        assert "style" not in attributes, "the CSP forbids inline styles"
        for name in ("href", "src", "action"):
            address = attributes.get(name) or "/"
            assert re.match(r"(/(?![/\\])|\?|#|https://example\.org/)", address), address
        if tag == "script":
            assert attributes.get("type") == "application/json" or (attributes.get("src") or "").startswith("/")
        if (attributes.get("href") or "").startswith("https:"):
            assert "noopener" in (attributes.get("rel") or "")
    if "hacked=1" in document:
        assert "{{7*7}}" in document, "a name is no template"
    for script in re.findall(r"<script[^>]*>(.*?)</script>", document, re.DOTALL):
        assert "<" not in script


def test_pages_have_landmarks_headings_and_unique_ids(document: str) -> None:
    seen = Seen()
    seen.feed(document)
    names = [tag for tag, _ in seen.tags]
    assert (names.count("main"), names.count("h1"), names.count("nav")) == (1, 1, 1)
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all("scope" in attributes for tag, attributes in seen.tags if tag == "th")


def test_every_template_is_a_page_or_a_part_of_one() -> None:
    folder = asset_folder("templates")
    files = {path.name for path in folder.glob("*.html")}
    assert {name for name in files if not name.startswith("_")} == {*PAGES, "base.html", "error.html"}
    sources = "".join(path.read_text() for path in folder.glob("*.html"))
    assert [name for name in files if name.startswith("_") and name not in sources] == []


@pytest.mark.parametrize("path", sorted(asset_folder("templates").glob("*.html")), ids=lambda path: path.name)
def test_templates_compute_nothing_and_trust_nothing(path: Path) -> None:
    source = path.read_text()
    assert environment().autoescape is True
    assert not re.search(r"\|\s*safe|Markup|autoescape|\sstyle=|\son[a-z]+=", source)
    for expression in re.findall(r"{{(.*?)}}|{%(.*?)%}", source, re.DOTALL):
        code = re.sub(r"\"[^\"]*\"|'[^']*'", "", "".join(expression)).strip("- ")
        assert not re.search(r"[\w)\]]\s*(?:[*/%]|\s[+-]\s)\s*[\w(]", code), f"arithmetic: {code}"


def test_numbers_of_the_charts_are_in_the_tables() -> None:
    endpoint = rendered(PAGES["endpoint.html"])
    table = endpoint[endpoint.index("Latency over time, table") :]
    for text in ("400 ms", "n too small", "no request", "22.0 ms"):
        assert text in table
    assert "n too small" in rendered(PAGES["queues.html"]) or "no arrival" in rendered(PAGES["queues.html"])


def test_a_percentile_without_interval_says_so() -> None:
    assert "n = 1\u2009000, too small" in rendered(PAGES["endpoint.html"])


def test_long_values_are_cut_until_asked_for() -> None:
    cut = rendered(lambda: trace_page(page("span=2", TRACE)))
    whole = rendered(lambda: trace_page(page("span=2&whole=1", TRACE)))
    assert "y" * 2048 in cut
    assert "y" * 2049 not in cut
    assert "show all 4.88 KiB" in cut
    assert "y" * 5000 in whole


def test_a_span_that_is_not_there_is_not_found() -> None:
    from analysis.errors import NotFound

    with pytest.raises(NotFound):
        rendered(lambda: trace_page(page("span=99", TRACE)))


@pytest.mark.parametrize(
    ("function", "make", "report"),
    [
        ("overview", overview_page, made.overview_report(made.endpoint_row())),
        ("retry_costs", retries_page, made.retries_report()),
    ],
)
def test_what_was_looked_at_in_part_says_so(function: str, make: Callable[[Page], Any], report: Any) -> None:
    assert 'class="partly"' not in rendered(lambda: make(page(**{function: report})))
    text = rendered(lambda: make(page(**{function: replace(report, partly="those of 5 of 9 spans")})))
    assert '<p class="partly">those of 5 of 9 spans</p>' in text


def test_withheld_percentiles_say_so_and_why() -> None:
    sampling = TailSampling("gateway", "POST /orders", DensityStep(500 * made.MS, 412, 21))
    report = made.endpoint_report()
    kept = replace(
        report,
        row=withheld(report.row, sampling),
        series=without_quantiles(report.series),
        withheld=tail_sampling_text(sampling),
        tail_from_ns=500 * made.MS,
        body_low_ns=0,
        body_high_ns=500 * made.MS,
    )
    text = rendered(
        lambda: endpoint_page(page("service=s&endpoint=e", endpoint_report=kept, fixes=made.fixes_report()))
    )
    assert text.count('<span class="quiet">withheld</span>') >= 4
    assert "412 requests of gateway POST /orders took 500 ms to 5 % more, only 21 up to 5 % less" in text
    assert "The mean kept request of less than 500 ms against the mean one of 500 ms and more" in text
    assert "n too small" not in text
    assert '"name": "p99"' not in text
    assert '"name": "p99"' in rendered(PAGES["endpoint.html"])
    assert "Counts and percentiles are of all." not in text


def test_an_overview_of_kept_traces_judges_no_tail() -> None:
    sampling = TailSampling("gateway", "POST /orders", DensityStep(500 * made.MS, 412, 21))
    report = made.overview_report(withheld(made.endpoint_row(), sampling))
    text = rendered(lambda: overview_page(page(overview=report, fixes=replace(made.fixes_report(), findings=()))))
    assert "of traces that look sampled by how long they took" in text
    assert "callers see in the traces that were kept" in text
    assert "withheld" in text


def test_kept_requests_say_what_they_stand_for() -> None:
    report = made.endpoint_report()
    sampled = replace(report, row=replace(report.row, adjusted_count=16_000.4))
    text = rendered(lambda: endpoint_page(page("service=s&endpoint=e", endpoint_report=sampled)))
    assert "stand for 16\u2009000" in text
    assert "Each cell counts kept requests" in text
    row = replace(made.endpoint_row(), adjusted_count=16_000.4)
    assert "stand for 16\u2009000" in rendered(lambda: overview_page(page(overview=made.overview_report(row))))
    assert "stand for" not in rendered(lambda: overview_page(page(overview=made.overview_report(made.endpoint_row()))))


def test_gains_of_kept_requests_say_so() -> None:
    report = made.fixes_report()
    kept = replace(
        report,
        findings=tuple(
            replace(one, gains=tuple(replace(gain, of_kept=True) for gain in one.gains)) for one in report.findings
        ),
    )
    assert "at p99 of what was kept" in rendered(lambda: fixes_page(page(fixes=kept)))
    assert "of what was kept" not in rendered(lambda: fixes_page(page(fixes=report)))
