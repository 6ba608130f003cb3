"""`/metrics` parses as OpenMetrics and as the older format, and says what the report says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as plain_families
from starlette.requests import Request
from starlette.responses import Response

import app.metrics as metrics
from app.ingest.stats import ServiceSeen
from app.self_report import SelfReport, StoreState
from tests.app.reports_made import HOSTILE
from tests.app.self_report_made import self_report_made

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def answer(monkeypatch: pytest.MonkeyPatch, report: SelfReport, accept: str = "") -> Response:
    async def made(state: object) -> SelfReport:
        return report

    monkeypatch.setattr(metrics, "self_report", made)
    application = SimpleNamespace(state=SimpleNamespace())
    headers = [(b"accept", accept.encode())] if accept else []
    return asyncio.run(metrics.metrics(Request({"type": "http", "headers": headers, "app": application})))


def samples(text: str) -> Samples:
    """Every sample of an OpenMetrics text; the parser refuses what the format does."""
    found = {}
    for family in openmetrics_families(text):  # type: ignore[no-untyped-call]
        assert family.name.startswith("spanwise_")
        assert family.documentation.endswith(".")
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def test_the_text_says_what_the_report_says(monkeypatch: pytest.MonkeyPatch) -> None:
    report = self_report_made()
    response = answer(monkeypatch, report)
    assert response.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    text = bytes(response.body).decode()
    assert text.endswith("# EOF\n")
    found = samples(text)
    assert found["spanwise_ingest_spans_total", (("outcome", "stored"),)] == 1_800
    assert found["spanwise_ingest_spans_total", (("outcome", "duplicate"),)] == 200
    assert found["spanwise_ingest_spans_total", (("outcome", "rejected"),)] == 5
    assert found["spanwise_ingest_requests_total", (("outcome", "stored"),)] == 20
    assert found["spanwise_ingest_requests_total", (("outcome", "refused"),)] == 5
    assert found["spanwise_ingest_requests_total", (("outcome", "failed"),)] == 8
    assert found["spanwise_ingest_partial_batches_total", ()] == 1
    assert found["spanwise_ingest_refusals_total", (("reason", "queue_full"),)] == 1
    assert sum(value for (name, _), value in found.items() if name == "spanwise_ingest_refusals_total") == 13
    assert found["spanwise_ingest_queue_bytes", ()] == 3 * 2**20
    assert found["spanwise_ingest_oldest_wait_seconds", ()] == 2
    assert found["spanwise_loop_lag_seconds_bucket", (("le", "0.5"),)] == 200
    assert found["spanwise_loop_lag_seconds_bucket", (("le", "1.0"),)] == 201
    assert found["spanwise_loop_lag_seconds_count", ()] == 201
    assert found["spanwise_loop_lag_seconds_sum", ()] == pytest.approx(0.78)
    assert found["spanwise_ingest_commit_seconds_bucket", (("le", "0.005"),)] == 1
    assert found["spanwise_service_spans_total", (("service", HOSTILE),)] == 2_000
    assert found["spanwise_query_seconds_count", (("analysis", "overview"),)] == 1
    assert found["spanwise_store_live_spans", ()] == 1_800
    assert found["spanwise_other_signal_items_total", (("signal", "logs"),)] == 40


def test_units_are_in_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    text = bytes(answer(monkeypatch, self_report_made()).body).decode()
    for family in openmetrics_families(text):  # type: ignore[no-untyped-call]
        assert family.type in ("counter", "gauge", "histogram", "info")
        for unit in ("bytes", "seconds"):
            assert family.name.endswith(f"_{unit}") == (family.unit == unit)


@pytest.mark.parametrize(
    ("accept", "plain"),
    [
        ("", False),
        ("*/*", False),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("text/plain", True),
        ("text/plain;version=0.0.4", True),
    ],
)
def test_who_asks_for_plain_text_only_gets_it(monkeypatch: pytest.MonkeyPatch, accept: str, plain: bool) -> None:
    response = answer(monkeypatch, self_report_made(), accept)
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4" if plain else "application/openm")
    text = bytes(response.body).decode()
    assert ("# EOF" in text) is not plain
    if plain:
        found = {sample.name for family in plain_families(text) for sample in family.samples}
        assert {"spanwise_ingest_spans_total", "spanwise_loop_lag_seconds_bucket"} <= found


def test_series_are_bounded_whoever_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    report = self_report_made()
    services = tuple(ServiceSeen(f's{number}\n"\\', 1, number) for number in range(256))
    crowded = replace(report, ingest=replace(report.ingest, services=services))
    found = samples(bytes(answer(monkeypatch, crowded).body).decode())
    assert sum(name == "spanwise_service_spans_total" for name, _ in found) == 64
    assert ("spanwise_service_spans_total", (("service", 's0\n"\\'),)) in found
    assert not [name for name, labels in found if "reason" in dict(labels) and HOSTILE in dict(labels)["reason"]]


def test_a_store_that_does_not_answer_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    down = self_report_made(store=StoreState(None, None, None, "no answer"))
    found = samples(bytes(answer(monkeypatch, down).body).decode())
    assert found["spanwise_store_up", ()] == 0
    assert ("spanwise_store_size_bytes", ()) not in found
    assert found["spanwise_ingest_commits_total", ()] == 18
