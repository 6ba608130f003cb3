"""A server on damaged files starts, says so on every page and in its log, and goes on taking spans."""

from __future__ import annotations

import html
from pathlib import Path

import pytest

from tests.chaos.senders import PROTOBUF, Journal
from tests.server import Server, running_server

pytestmark = pytest.mark.slow

PAGES = (
    "/",
    "/?last=all",
    "/queues",
    "/retries",
    "/fixes",
    "/traces",
    "/upload",
    "/settings",
    "/ingest",
    "/nothing-here",
)
BANNER = '<aside class="damage"'
BATCH = 512


def send(server: Server, journal: Journal, number: int) -> None:
    with server.client() as client:
        client.post("/v1/traces", content=journal.templates[BATCH].body(number), headers=PROTOBUF).raise_for_status()


def pages(server: Server) -> dict[str, str]:
    with server.client() as client:
        answers = {path: client.get(path) for path in PAGES}
    assert {path: answer.status_code for path, answer in answers.items()} == {
        path: 404 if path == PAGES[-1] else 200 for path in PAGES
    }
    return {path: html.unescape(answer.text) for path, answer in answers.items()}


@pytest.mark.parametrize("damaged", ["spanwise.duckdb.wal", "spanwise.duckdb"])
def test_damage_is_said_on_every_page_until_the_file_is_moved_away(tmp_path: Path, damaged: str) -> None:
    journal, folder = Journal(), tmp_path / "data"
    with running_server(folder) as server:
        send(server, journal, 1)
        assert not any(BANNER in text for text in pages(server).values())
    with running_server(folder, ended_by_test=True) as server:
        send(server, journal, 2)
        server.process.kill()
        server.process.wait(10)
    file = folder / damaged
    content = bytearray(file.read_bytes())
    if damaged.endswith(".wal"):
        content[len(content) // 2] ^= 0xFF
    else:
        content[:4096] = bytes(4096)
    file.write_bytes(content)
    with running_server(folder) as server:
        [kept] = folder.glob(f"{damaged}.damaged-*")
        assert kept.read_bytes() == bytes(content)
        assert server.live_spans() == (BATCH if damaged.endswith(".wal") else 0)
        for path, text in pages(server).items():
            assert text.count(BANNER) == 1, path
            assert str(kept) in text, path
            assert "nothing of it was deleted" in text, path
        assert str(kept) in server.log.read_text()
        # What is missing is sent again by whoever still has it.
        send(server, journal, 2)
        assert server.live_spans() == (2 * BATCH if damaged.endswith(".wal") else BATCH)
    with running_server(folder) as server:
        assert all(BANNER in text for text in pages(server).values())
        for each in folder.glob("*.damaged-*"):
            each.rename(tmp_path / each.name)
    with running_server(folder) as server:
        assert not any(BANNER in text for text in pages(server).values())


@pytest.mark.parametrize("content", [b"SQLite format 3\0" + bytes(100_000), b"name,duration\n" * 1000])
def test_a_file_of_another_program_is_refused_and_stays(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "spanwise.duckdb"
    file.write_bytes(content)
    with pytest.raises(AssertionError, match="the server did not start"), running_server(tmp_path, ended_by_test=True):
        pass
    assert file.read_bytes() == content
    assert not list(tmp_path.glob("*.damaged-*"))
    assert "choose another --data file" in (tmp_path / "log.txt").read_text()
