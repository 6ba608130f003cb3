"""Uploads through the API and the form: streamed, bounded, and named by nobody but us."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server import ROOT, Server, running_server

pytestmark = pytest.mark.slow

_START_NS = 1_700_000_000_000_000_000


def otlp_json(spans: int, bad: int = 0) -> bytes:
    every = [
        {
            "traceId": f"{number + 1:032x}",
            "spanId": f"{number + 1:016x}" if number < spans else "xyz",
            "name": "GET /",
            "kind": 2,
            "startTimeUnixNano": str(_START_NS + number),
            "endTimeUnixNano": str(_START_NS + number + 1000),
        }
        for number in range(spans + bad)
    ]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": every}]}]}).encode()


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("uploads"), "--max-upload-bytes", "1MiB") as started:
        yield started


@pytest.fixture(scope="module")
def client(uploads: Server) -> Iterator[httpx.Client]:
    with uploads.client() as opened:
        yield opened


def scratch_files(server: Server) -> list[Path]:
    return list((server.log.parent / "uploads").iterdir())


def test_a_raw_body_becomes_a_dataset(uploads: Server, client: httpx.Client) -> None:
    response = client.post("/api/upload", params={"name": "../../etc/tail <b>.json"}, content=otlp_json(5, bad=2))
    assert response.status_code == 201, response.text
    body = response.json()
    assert (body["name"], body["spans"], body["format"]) == ("tail <b>.json", 5, "OTLP JSON")
    assert sum(each["count"] for each in body["rejected"]) == 2
    assert all(each["reason"] for each in body["rejected"])
    assert client.get(body["url"]).status_code == 200
    assert not scratch_files(uploads)


@pytest.mark.parametrize("packed", [False, True])
def test_a_form_becomes_a_dataset(client: httpx.Client, packed: bool) -> None:
    content = gzip.compress(otlp_json(3)) if packed else otlp_json(3)
    response = client.post("/api/upload", files={"file": ("C:\\data\\t.json", content)}, data={"name": " my name "})
    assert response.status_code == 201, response.text
    assert (response.json()["name"], response.json()["spans"]) == ("my name", 3)
    unnamed = client.post("/api/upload", files={"file": ("C:\\data\\t.json", content)})
    assert unnamed.json()["name"] == "t.json"


def test_the_form_of_the_page_leads_to_the_dataset(client: httpx.Client) -> None:
    response = client.post("/upload", files={"file": ("t.json", otlp_json(3))})
    assert response.status_code == 303
    assert response.headers["location"].startswith("/?dataset=")
    broken = client.post("/upload", files={"file": ("t.json", b"not a trace")})
    assert broken.status_code == 400
    assert "Nothing was imported" in broken.text


REFUSED = [
    ({"content": b""}, 400, "empty"),
    ({"content": b"hello"}, 400, "not a known trace format"),
    ({"content": otlp_json(3)[:-20]}, 400, ""),
    ({"content": gzip.compress(otlp_json(30))[:-20]}, 400, ""),
    ({"content": bytes(2**20 + 1)}, 413, "1048576"),
    ({"content": (bytes(2**16) for _ in range(17))}, 413, "1048576"),
    ({"files": {"file": ("big", bytes(2**20 + 1))}}, 413, "1048576"),
    ({"files": {"other": ("t.json", b"{}")}}, 400, "file"),
    ({"files": [("file", ("a", otlp_json(1))), ("file", ("b", otlp_json(1)))]}, 400, "two files"),
    ({"data": {"file": "x"}}, 400, "begins with 'file=x'"),
    ({"files": {"file": ("t", b"x")}, "data": {"name": "x" * 5000}}, 400, "4096"),
    ({"files": {"file": ("t", b"x")}, "data": {f"f{number}": "x" for number in range(100)}}, 400, "16"),
    ({"content": b"--a\r\n", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
    ({"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, 400, "form"),
    (
        {
            "content": b'--a\r\nContent-Disposition: form-data; name="file"; filename="t"\r\n\r\n{}',
            "headers": {"Content-Type": "multipart/form-data; boundary=a"},
        },
        400,
        "cut off",
    ),
    (
        {
            "content": b"--a\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n\r\n--a--\r\n",
            "headers": {"Content-Type": "multipart/form-data; boundary=a"},
        },
        400,
        "",
    ),
]


def test_the_line_of_the_readme_imports_a_file(uploads: Server, tmp_path: Path) -> None:
    (tmp_path / "traces.json").write_bytes(otlp_json(3))
    line = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("curl "))
    command = shlex.split(line.replace("http://localhost:4318", uploads.url))
    if not shutil.which("curl"):
        pytest.skip("no curl")
    answer = subprocess.run([*command, "--silent"], cwd=tmp_path, capture_output=True, check=True, timeout=30).stdout
    assert json.loads(answer)["name"] == "traces.json", answer
    assert json.loads(answer)["spans"] == 3


@pytest.mark.parametrize(("request_parts", "status", "words"), REFUSED)
def test_what_cannot_be_taken_is_refused_with_a_reason(
    uploads: Server, client: httpx.Client, request_parts: dict[str, object], status: int, words: str
) -> None:
    before = len(client.get("/api/datasets").json()["datasets"])
    response = client.post("/api/upload", **request_parts)  # type: ignore[arg-type]
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "hint"}
    assert words in response.json()["error"]
    assert len(client.get("/api/datasets").json()["datasets"]) == before
    assert not scratch_files(uploads)


def test_datasets_are_listed_and_deleted(client: httpx.Client) -> None:
    made = client.post("/api/upload", params={"name": "gone"}, content=otlp_json(2)).json()["dataset"]
    listed = {each["dataset_id"]: each for each in client.get("/api/datasets").json()["datasets"]}
    assert (listed[made]["name"], listed[made]["span_count"]) == ("gone", 2)
    assert listed[0]["kind"] == "live"
    assert client.delete(f"/api/datasets/{made}").json() == {"deleted": made}
    assert client.delete(f"/api/datasets/{made}").status_code == 404


def test_reports_answer_as_json(client: httpx.Client) -> None:
    made = client.post("/api/upload", params={"name": "r"}, content=otlp_json(4)).json()["dataset"]
    listed = client.get("/api").json()["operations"]
    reports = [each for each in listed if each["method"] == "GET" and "dataset" in each.get("parameters", ())]
    assert len(reports) >= 8
    trace_id, span_id = f"{1:032x}", f"{1:016x}"
    fixed = {
        "service": "unknown_service",
        "endpoint": "GET /",
        "trace_id": trace_id,
        "span_id": span_id,
        "other_trace_id": trace_id,
        "other_span_id": span_id,
        "dataset": made,
        "min_duration_ns": 1,
    }
    for each in reports:
        names = [name for name in each["parameters"] if name in fixed]
        response = client.get(each["path"], params={name: fixed[name] for name in names})
        assert response.status_code == 200, (each["path"], response.text)
        assert response.json()["report"]
        assert response.json()["dataset"] == made
    trace = client.get("/api/trace", params={"trace_id": trace_id, "dataset": made}).json()["report"]
    assert trace["rows"][0]["span_id"] == span_id


def test_the_longest_duration_may_be_asked_for(client: httpx.Client) -> None:
    response = client.get("/api/traces", params={"min_duration_ns": 2**63 - 1})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/endpoint", 400),
        ("/api/endpoint?service=a&endpoint=b", 404),
        ("/api/chosen?service=a&endpoint=b", 400),
        ("/api/chosen?service=a&endpoint=b&min_duration_ns=5&max_duration_ns=5", 400),
        ("/api/chosen?service=a&endpoint=b&began_from=never", 400),
        ("/api/chosen?service=a&endpoint=b&min_duration_ns=5", 404),
        ("/api/trace?trace_id=xyz", 400),
        (f"/api/compare?trace_id={'0' * 31}1", 400),
        (f"/api/compare?trace_id={'0' * 31}1&other_trace_id=xyz", 400),
        (f"/api/compare?trace_id={'0' * 31}9&other_trace_id={'0' * 31}9&span_id=x", 400),
        (f"/api/compare?trace_id={'0' * 31}9&other_trace_id={'0' * 31}9", 404),
        (f"/api/trace?trace_id={'0' * 31}9", 404),
        ("/api/traces?limit=-1", 400),
        ("/api/traces?limit=1e9", 400),
        ("/api/traces?limit=1001", 400),
        ("/api/traces?order=sideways", 400),
        ("/api/traces?offset=NaN", 400),
        (f"/api/traces?min_duration_ns={2**63}", 400),
        ("/api/endpoints?dataset=999", 400),
        ("/api/endpoints?dataset=x", 400),
        ("/api/endpoints?last=forever", 400),
        ("/api/endpoints?from=2020-01-01", 400),
    ],
)
def test_parameters_that_cannot_be_read_are_named(client: httpx.Client, path: str, status: int) -> None:
    response = client.get(path)
    assert response.status_code == status, response.text
    assert response.json()["error"]
