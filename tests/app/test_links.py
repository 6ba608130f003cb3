"""URLs carry their scope, and scopes are read back or refused with the value named."""

from __future__ import annotations

from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.endpoint_reports import Region
from analysis.span import Window
from app import links
from app.links import BadScope, Scope, TraceQuery, instant_text, parse_instant, parse_scope
from app.otlp.columns import Tally
from app.store.base import Dataset

NOW = 1_800_000_000_000_000_001
HOUR = 3_600_000_000_000


def dataset(dataset_id: int, last: int = NOW - HOUR // 2, spans: int = 5, created: int = 1) -> Dataset:
    kind = "live" if dataset_id == 0 else "upload"
    return Dataset(dataset_id, "name", kind, "", "", created, spans, 1, last - HOUR, last, Tally())


def scope(query: str, *datasets: Dataset) -> Scope:
    return parse_scope(dict(parse_qsl(query, keep_blank_values=True)), datasets or (dataset(0), dataset(7)), NOW)


def test_defaults_follow_what_is_there() -> None:
    assert scope("") == Scope(0, "1h")
    assert scope("", dataset(0, last=NOW - 2 * HOUR)) == Scope(0, "all")
    assert scope("", dataset(0, spans=0), dataset(7, created=1), dataset(8, created=2)) == Scope(8, "all")
    assert scope("", dataset(0, spans=0, last=0)) == Scope(0, "all")
    assert scope("dataset=0", dataset(0, spans=0, last=0), dataset(7)) == Scope(0, "all")
    assert scope("dataset=7") == Scope(7, "all")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("dataset=x", "'x'"),
        ("dataset=99", "99"),
        ("dataset=-1", "'-1'"),
        ("dataset=%D9%A3", "'٣'"),
        ("last=2h", "'2h'"),
        ("from=2026-01-01", "“to”"),
        ("to=2026-01-01", "“from”"),
        ("from=yesterday&to=2026-01-01", "'yesterday'"),
        ("from=2026-13-01&to=2026-01-01", "'2026-13-01'"),
        ("from=2026-01-02&to=2026-01-01", "2026-01-02"),
        ("from=2026-01-01T00:00:00%2B02:00&to=2026-01-02", "+02:00"),
        ("from=1960-01-01&to=2026-01-01", "1960"),
        ("from=2026-01-01&to=9999-01-01", "9999"),
        ("from=2026-01-01T00:00:00.1234567890Z&to=2027-01-01", "1234567890"),
    ],
)
def test_what_cannot_be_read_is_named(query: str, named: str) -> None:
    with pytest.raises(BadScope) as caught:
        scope(query)
    assert named in str(caught.value)


def test_windows() -> None:
    live, upload = dataset(0), dataset(7, last=5 * HOUR)
    hour = Scope(0, "1h").window(live, NOW)
    assert hour.duration_ns == HOUR
    assert NOW <= hour.end_ns < NOW + 5_000_000_000, "up to now, so that the newest span is in"
    assert Scope(7, "15m").window(upload, NOW) == Window(5 * HOUR + 1 - HOUR // 4, 5 * HOUR + 1), "up to the last span"
    assert Scope(7).window(upload, NOW) == Window(4 * HOUR, 5 * HOUR + 1)
    assert Scope(7, "24h").window(upload, NOW).start_ns == 0
    assert Scope(7, "", 3, 9).window(upload, NOW) == Window(3, 9)


@given(st.integers(0, 2**63 - 1))
def test_instants_keep_every_nanosecond(instant_ns: int) -> None:
    assert parse_instant("from", instant_text(instant_ns)) == instant_ns


def test_instants_in_short_forms() -> None:
    assert parse_instant("from", "1970-01-02") == 86_400 * 10**9
    assert parse_instant("from", "1970-01-01T00:01") == 60 * 10**9
    assert parse_instant("from", "1970-01-01 00:00:01.5+00:00") == 1_500_000_000


@given(st.text(), st.text())
def test_names_survive_the_way_through_a_url(service: str, endpoint: str) -> None:
    address = links.endpoint_url(Scope(3, "", 1, 2), service, endpoint)
    query = dict(parse_qsl(urlsplit(address).query, keep_blank_values=True))
    assert (query["service"], query["endpoint"]) == (service, endpoint)
    assert scope(urlsplit(address).query, dataset(0), dataset(3)) == Scope(3, "", 1, 2)


@given(*(st.integers(0, 10**17) for _ in range(4)), st.tuples(*(st.booleans() for _ in range(4))))
def test_a_region_survives_the_way_through_a_url(
    start: int, duration: int, shortest: int, width: int, given_bounds: tuple[bool, ...]
) -> None:
    ends = Region()
    bounds = (start, start + duration + 1, shortest % 10**12, shortest % 10**12 + width % 10**12 + 1)
    open_ends = (ends.from_ns, ends.to_ns, ends.low_ns, ends.high_ns)
    region = Region(
        *(bound if is_given else end for bound, end, is_given in zip(bounds, open_ends, given_bounds, strict=True))
    )
    address = links.endpoint_url(Scope(3), "s", "e", region)
    assert links.parse_region(dict(parse_qsl(urlsplit(address).query))) == (None if region == ends else region)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("began_from=x", "began_from='x'"),
        ("began_to=2026-02-30", "'2026-02-30'"),
        ("began_from=2026-01-02&began_to=2026-01-01", "“began_to” (2026-01-01)"),
        ("began_to=1970-01-01", "“began_from” (0)"),
        ("min_ms=-1", "min_ms='-1'"),
        ("min_ms=5&max_ms=5", "“max_ms” (5)"),
        ("max_ms=0", "“max_ms” (0)"),
    ],
)
def test_a_region_that_cannot_be_read_is_named(query: str, named: str) -> None:
    with pytest.raises(BadScope) as caught:
        links.parse_region(dict(parse_qsl(query)))
    assert named in str(caught.value)


EVERY = [
    links.overview_url(Scope(3)),
    links.endpoint_url(Scope(3), "s", "e"),
    links.endpoint_url(Scope(3), "s", "e", Region(1, 2, 3, 4)),
    links.queues_url(Scope(3)),
    links.retries_url(Scope(3)),
    links.fixes_url(Scope(3)),
    links.fix_url(Scope(3), "../x"),
    links.detector_url(Scope(3), "a/b"),
    links.traces_url(Scope(3), TraceQuery(service="s", offset=50)),
    links.trace_url(Scope(3), "ab", 1),
    links.send_url(Scope(3)),
    links.upload_url(Scope(3)),
    links.datasets_url(Scope(3)),
    links.settings_url(Scope(3)),
]


@pytest.mark.parametrize("address", EVERY)
def test_every_url_has_dataset_and_window(address: str) -> None:
    parts = urlsplit(address)
    query = parse_qs(parts.query)
    assert (query["dataset"], query["last"]) == (["3"], ["all"])
    assert not parts.netloc
    assert ".." not in parts.path.split("/")


def test_trace_urls_point_at_the_span() -> None:
    assert links.trace_url(Scope(0), "ab", 255).endswith("span=00000000000000ff#s-00000000000000ff")
    assert links.parse_span("00000000000000ff") == 255
    with pytest.raises(BadScope, match="zz"):
        links.parse_span("zz")
