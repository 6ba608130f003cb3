"""`kill -9` at random moments under load: what was acknowledged is there, nothing is there in part or twice.

Ten rounds; `make test-kill`, or SPANWISE_TEST_KILLS=100, makes as many as wanted. Each goes on with the files that the
last one left. Odd rounds have a log of 1 MiB, so that many of their kills strike a checkpoint.
"""

from __future__ import annotations

import gzip
import os
import threading
import time
from pathlib import Path
from random import Random

import httpx
import pytest

from app.resources import demo_recording
from app.store.duckdb import DuckStore
from tests.chaos.senders import ALL, Journal, deliver_rest, expect_whole, sending
from tests.server import Server, running_server

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("SPANWISE_TEST_KILLS", "10"))


class Uploads:
    """Uploads the same file again and again and deletes some of what came of it, in a thread of its own."""

    def __init__(self) -> None:
        self.file = gzip.decompress(demo_recording().read_bytes())
        self.there: set[int] = set()
        """Datasets whose upload was acknowledged and whose deletion was not begun."""
        self.spans = 0

    def run(self, server: Server, stop: threading.Event) -> None:
        with server.client() as client:
            while not stop.is_set():
                try:
                    answer = client.post("/api/upload?name=a", content=self.file)
                    answer.raise_for_status()
                    self.spans = answer.json()["spans"]
                    self.there.add(answer.json()["dataset"])
                    if len(self.there) > 2:
                        client.delete(f"/api/datasets/{self.there.pop()}").raise_for_status()
                except httpx.HTTPError:
                    return

    def expect_whole(self, data: Path) -> None:
        """Every dataset has all its spans, and none that has no dataset is left over."""
        store = DuckStore(str(data))
        try:
            listed = {each.dataset_id: each.span_count for each in store.datasets()[1:]}
            assert self.there <= set(listed)
            for dataset_id in range(1, max(listed, default=0) + 3):
                with store.read(dataset_id, ALL, 60) as spans:
                    [(count,)] = spans.rows("select count(*) from spans")
                assert count == listed.get(dataset_id, 0)
                assert count in (0, self.spans)
        finally:
            store._close_connections()


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    journal, uploads, data = Journal(), Uploads(), tmp_path / "spanwise.duckdb"
    chance = Random(1)
    committed_unanswered = set[int]()
    for number in range(ROUNDS):
        flags = ("--checkpoint-bytes", "1MiB") if number % 2 else ()
        with running_server(tmp_path, *flags, ended_by_test=True) as server:
            stop = threading.Event()
            uploading = threading.Thread(target=uploads.run, args=(server, stop))
            uploading.start()
            with sending(server, journal, number):
                time.sleep(chance.uniform(0.05, 1.5))
                server.process.kill()
                server.process.wait(10)
            stop.set()
            uploading.join()
        assert set(journal.refusals) <= {"connection", "UNAVAILABLE", "503"}, journal.refusals
        committed_unanswered |= expect_whole(data, journal)
        uploads.expect_whole(data)
    assert journal.acknowledged
    assert journal.repeated
    with running_server(tmp_path) as server:
        deliver_rest(server, journal)
    assert expect_whole(data, journal) == set()
    print(
        f"{ROUNDS} kills: {len(journal.acknowledged)} batches, {journal.acknowledged_spans} spans; "
        f"{len(committed_unanswered)} were stored and their answer lost; {journal.repeated} sendings were repeats"
    )


def test_a_lost_span_would_be_noticed(tmp_path: Path) -> None:
    """The comparison itself: a batch too few, a span too few, a span twice."""
    journal, data = Journal(), tmp_path / "spanwise.duckdb"
    with running_server(tmp_path) as server, sending(server, journal, 1):
        while len(journal.acknowledged) < 20:
            time.sleep(0.01)
    assert expect_whole(data, journal) == set()
    journal.acknowledged.add(10**6)
    with pytest.raises(AssertionError, match="1 of"):
        expect_whole(data, journal)
    journal.acknowledged.discard(10**6)
    several = next(number for number, size in journal.sizes.items() if size > 1 and number in journal.acknowledged)
    row = f"where span_id = {(several << 32) + 1}"
    for sql in ("insert into all_spans select * from all_spans", "delete from all_spans"):
        store = DuckStore(str(data))
        store._writer.execute(f"{sql} {row}")
        store.close()
        with pytest.raises(AssertionError, match="in part, twice"):
            expect_whole(data, journal)
