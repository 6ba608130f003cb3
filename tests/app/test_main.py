"""What every route has in common: hosts, origins, headers, no redirects, failures in the words of who asked."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from google.rpc.status_pb2 import Status
from starlette.routing import Mount, Route

from app.guards import host_name
from app.main import create_app
from app.settings import settings_from
from tests.server import Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


def every_path() -> list[tuple[str, str]]:
    """Method and path of every route, parameters filled in."""
    found = []
    for route in create_app(settings_from({"HOME": "/h"})).routes:
        if isinstance(route, Mount):
            found.append(("GET", f"{route.path}/app.css"))
        elif isinstance(route, Route):
            path = re.sub(r"\{[^}]*\}", "7", route.path)
            found += [(method, path) for method in sorted(route.methods or {"POST"}) if method != "HEAD"]
    return sorted(set(found))


PATHS = every_path()


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_no_route_answers_a_foreign_host_or_redirects_for_one(client: httpx.Client, method: str, path: str) -> None:
    response = client.request(method, path, headers={"Host": "evil.com"})
    assert response.status_code == 421
    assert "location" not in response.headers


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_every_answer_carries_the_security_headers(client: httpx.Client, method: str, path: str) -> None:
    headers = client.request(method, path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(("method", "path"), [each for each in PATHS if each[0] not in ("GET", "HEAD")])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.com"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.com:4318"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://[127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_can_change_nothing(client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> None:
    assert client.request(method, path, headers=headers).status_code == 403


def test_our_own_pages_may_ask(server: Server, client: httpx.Client) -> None:
    headers = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert client.delete("/api/datasets/987654", headers=headers).status_code == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:4318", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1:1", 200),
        ("[::1]", 200),
        ("[::1]:4318", 200),
        ("localhost.", 421),
        ("localhost.evil.com", 421),
        ("evil.com", 421),
        ("evil.com:4318", 421),
        ("127.0.0.1.nip.io", 421),
        ("127.0.0.2", 421),
        ("0.0.0.0", 421),
        ("::1", 421),
        ("[::1", 421),
        ("user@localhost", 421),
        ("localhost/path?x", 421),
        ("localhost:port", 421),
        ("localhost, evil.com", 421),
        ("", 421),
    ],
)
def test_hosts(client: httpx.Client, host: str, status: int) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == status


def test_a_missing_or_repeated_host_is_refused(server: Server) -> None:
    for hosts in ("", "Host: localhost\r\nHost: evil.com\r\n"):
        with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as raw:
            raw.sendall(f"GET /healthz HTTP/1.0\r\n{hosts}\r\n".encode())
            assert re.match(rb"HTTP/1\.[01] 4(00|21) ", raw.recv(4096))


def test_host_names_are_read_strictly() -> None:
    assert host_name("Spanwise.Internal:4318") == "spanwise.internal"
    assert host_name("[::1]:1") == "[::1]"
    assert all(host_name(text) is None for text in ("", "a b", "a/b", "a@b", "[::1", "a:b", "a:123456", "a\n"))


@pytest.mark.parametrize(
    "path", ["/traces/", "/v1/traces/x", "//evil.com", "/static/../app/main.py", "/static/%2e%2e/x", "/fix"]
)
def test_nothing_redirects_and_unknown_addresses_are_404(client: httpx.Client, path: str) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=10) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 "), answer[:200]
    assert b"\r\nlocation:" not in answer.lower()


def test_failures_are_said_in_the_words_of_who_asked(client: httpx.Client) -> None:
    page, api, otlp = client.get("/nope"), client.get("/api/nope"), client.get("/v1/nope")
    assert page.headers["content-type"].startswith("text/html")
    assert set(api.json()) == {"error", "hint"}
    assert otlp.json()["code"] == 5
    slip = client.post("/", content=b"\n\0", headers={"Content-Type": "application/x-protobuf"})
    assert (slip.status_code, slip.headers["content-type"]) == (405, "application/x-protobuf")
    assert Status.FromString(slip.content).message.endswith("Traces go to /v1/traces.")
    assert client.post("/api/status").status_code == 405
    assert client.post("/api/status").json()["error"]


def test_only_the_bundle_of_plotly_is_served(client: httpx.Client) -> None:
    bundle = client.get("/plotly/plotly.min.js")
    assert bundle.status_code == 200
    assert "javascript" in bundle.headers["content-type"]
    again = client.get("/plotly/plotly.min.js", headers={"If-None-Match": bundle.headers["etag"]})
    assert again.status_code == 304
    for path in ("/plotly/widgetbundle.js", "/plotly/", "/plotly/datasets/gapminder.csv.gz", "/plotly/../__init__.py"):
        assert client.get(path).status_code == 404


def test_health_and_readiness(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"spanwise": "alive"}
    assert client.get("/readyz").json() == {"spanwise": "ready"}
