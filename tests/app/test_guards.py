"""The last resort and the end of requests that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message

from app.failures import bug, refusal
from app.guards import CancelOnDisconnect, Guard


async def broken(request: Request) -> Response:
    raise ZeroDivisionError("secret of the inside")


def get(path: str) -> httpx.Response:
    app = Starlette(
        routes=[Route(path, broken)],
        middleware=[Middleware(Guard, allowed_hosts=(), refuse=refusal, bug=bug), Middleware(CancelOnDisconnect)],
    )

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("path", "media"), [("/", "text/html"), ("/api/x", "application/json"), ("/v1/x", "application/json")]
)
def test_a_bug_is_a_500_with_an_id_that_the_log_has(caplog: pytest.LogCaptureFixture, path: str, media: str) -> None:
    response = get(path)
    assert response.status_code == 500
    assert response.headers["content-type"].startswith(media)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "secret" not in response.text
    number = caplog.messages[0].split()[1].rstrip(":")
    assert number in response.text
    assert "ZeroDivisionError" in caplog.text


def test_a_handler_is_cancelled_when_its_client_leaves() -> None:
    outcome: list[str] = []

    async def slow(scope: object, receive: object, send: object) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise

    async def run() -> None:
        messages: Iterator[Message] = iter(
            [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]
        )

        async def receive() -> Message:
            await asyncio.sleep(0.01)
            return next(messages)

        async def send(message: Message) -> None:
            outcome.append("sent")

        async with asyncio.timeout(5):
            await CancelOnDisconnect(slow)({"type": "http", "method": "GET"}, receive, send)

    asyncio.run(run())
    assert outcome == ["cancelled"]


def test_an_answer_passes_and_a_failure_comes_through() -> None:
    async def fine(request: Request) -> Response:
        return PlainTextResponse("fine")

    app = Starlette(routes=[Route("/", fine), Route("/broken", broken)], middleware=[Middleware(CancelOnDisconnect)])

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            assert (await client.get("/")).text == "fine"
            with pytest.raises(ZeroDivisionError):
                await client.get("/broken")

    asyncio.run(ask())
