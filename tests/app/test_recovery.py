"""Whatever is damaged, the store opens, keeps every damaged byte under a dated name, and says what is missing."""

from __future__ import annotations

import fcntl
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import duckdb
import pytest

from app.store import open_store
from app.store.base import LIVE, StoreBusy, StoreError
from app.store.connection import default_limits, is_damage, translated
from app.store.duckdb import DuckStore
from app.store.recovery import files_set_aside
from tests.app.spans_made import ALL, batch, numbered, record
from tests.server import ROOT, environment

LIMITS = replace(default_limits(), memory_bytes=2**28, threads=1)
CHECKPOINTED = 3_000
LOGGED = 12
BATCH = 100
_KILLED = f"""
import os, signal, sys
from app.store import open_store
from tests.app.spans_made import numbered
store = open_store(sys.argv[1])
store.append(0, [numbered(1, {CHECKPOINTED})])
store._writer.execute("checkpoint")
for group in range({LOGGED}):
    store.append(0, [numbered({CHECKPOINTED} + 1 + group * {BATCH}, {BATCH})])
os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass(frozen=True)
class Killed:
    """The files of a store that was killed with a long log."""

    database: bytes
    log: bytes

    def entries(self) -> list[int]:
        """Where each entry of the log begins: its length, its checksum, its content."""
        found, place = [], self.log.index(b"\xff\xff") + 2
        while place < len(self.log):
            found.append(place)
            place += 16 + int.from_bytes(self.log[place : place + 8], "little")
        assert place == len(self.log)
        return found


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    path = tmp_path_factory.mktemp("killed") / "a.duckdb"
    done = subprocess.run([sys.executable, "-c", _KILLED, path], cwd=ROOT, env=environment(), check=False)
    assert done.returncode < 0
    return Killed(path.read_bytes(), path.with_suffix(".duckdb.wal").read_bytes())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.duckdb"


def files(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}


def laid(path: Path, database: bytes | None, log: bytes | None) -> dict[str, bytes]:
    """Puts the files there, nothing else beside them."""
    for name in files(path):
        (path.parent / name).unlink()
    for file, content in ((path, database), (path.with_suffix(".duckdb.wal"), log)):
        if content is not None:
            file.write_bytes(content)
    return files(path)


def opened(path: Path) -> int:
    """How many spans a store at the path holds, the first so many; it must go on taking them, across a restart too."""
    store = open_store(str(path), LIMITS)
    total, distinct, latest = counted(store)
    assert total == distinct == latest
    assert store.append(LIVE, [numbered(10**6, 10)]).inserted == 10
    store.close()
    store = open_store(str(path), LIMITS)
    assert counted(store) == (total + 10, total + 10, 10**6 + 9)
    store.close()
    return total


def counted(store: DuckStore) -> tuple[int, int, int]:
    """Spans, different ids, the largest id."""
    with store.read(LIVE, ALL, 10) as reader:
        [row] = reader.rows("select count(*), count(distinct span_id), coalesce(max(span_id), 0) from spans")
    return row


def kept_whole(before: Mapping[str, bytes], path: Path, name: str) -> None:
    """The damaged file lies there under one dated name, as it was."""
    dated = [each for each in files(path) if re.fullmatch(re.escape(name) + r"\.damaged-\d{8}-\d{6}(-\d+)?", each)]
    assert [files(path)[each] for each in dated] == [before[name]]
    known = [Path(each.path).name for each in files_set_aside(str(path))]
    assert [each for each in known if each.startswith(f"{name}.damaged")] == dated


def places(length: int, count: int) -> Iterator[int]:
    chance = Random(7)
    return (chance.randrange(length) for _ in range(count))


def test_a_log_that_a_kill_tore_off_is_no_damage(killed: Killed, path: Path) -> None:
    for length in places(len(killed.log), 8):
        laid(path, killed.database, killed.log[:length])
        assert CHECKPOINTED <= opened(path) < CHECKPOINTED + LOGGED * BATCH
        assert files_set_aside(str(path)) == ()
    for log in (killed.log, killed.log + bytes(4096)):
        laid(path, killed.database, log)
        assert opened(path) == CHECKPOINTED + LOGGED * BATCH
        assert files_set_aside(str(path)) == ()


@pytest.mark.parametrize("mib_tenths", [11, 17])
def test_a_whole_log_just_above_a_tenth_of_a_mebibyte_is_no_damage(path: Path, mib_tenths: int) -> None:
    """DuckDB cuts its size down to whole KiB first: it says "1.0 MiB" of 1.1002."""
    store, log = open_store(str(path), LIMITS), path.with_suffix(".duckdb.wal")
    above, below = -(-mib_tenths * 2**20 // 10), -(-mib_tenths * 2**10 // 10) * 2**10

    def append(number: int, text_bytes: int) -> int:
        before = log.stat().st_size if log.exists() else 0
        store.append(LIVE, [batch([record(number, attributes={"text": "x" * text_bytes})])])
        return log.stat().st_size - before

    # The first commits write more besides their text than those after them.
    besides_text = [append(number, 10_000) - 10_000 for number in range(1, 9)][-1]
    append(9, above - 200_000)
    append(10, (above + below) // 2 - log.stat().st_size - besides_text)
    crashed = path.read_bytes(), log.read_bytes()
    # With the whole mark of a commit above the tenth.
    assert above + 21 < len(crashed[1]) < below
    store.close()
    laid(path, *crashed)
    assert opened(path) == 10
    assert files_set_aside(str(path)) == ()


def damaged_logs(log: bytes) -> Iterator[tuple[int, bytes]]:
    """Where the damage begins, and the log with it."""
    chance = Random(3)
    for place in places(len(log), 8):
        flipped = bytearray(log)
        flipped[place] ^= 1 << chance.randrange(8)
        yield place, bytes(flipped)
        yield place, log[:place] + bytes(len(log) - place)
        end = min(len(log), place + 300)
        yield place, log[:place] + chance.randbytes(end - place) + log[end:]
    yield 0, chance.randbytes(len(log))
    yield 0, bytes(4096) + log[4096:]


def test_a_damaged_log_is_kept_and_read_up_to_the_damage(killed: Killed, path: Path) -> None:
    commits = [at + 21 for at in killed.entries() if killed.log[at : at + 8] == (5).to_bytes(8, "little")]
    assert len(commits) == LOGGED
    for place, log in damaged_logs(killed.log):
        before = laid(path, killed.database, log)
        assert opened(path) == CHECKPOINTED + BATCH * sum(commit <= place for commit in commits), place
        kept_whole(before, path, "a.duckdb.wal")
        [known] = files_set_aside(str(path))
        assert known.log
        assert known.size_bytes == len(log)


def test_a_wrong_length_in_the_log_does_not_pass_for_its_end(killed: Killed, path: Path) -> None:
    """DuckDB takes it for a torn tail and would cut off what follows with its next commit."""
    for at in killed.entries()[:-1:5]:
        log = bytearray(killed.log)
        log[at + 6] ^= 1
        before = laid(path, killed.database, bytes(log))
        assert opened(path) < CHECKPOINTED + LOGGED * BATCH
        kept_whole(before, path, "a.duckdb.wal")


def test_where_the_log_cannot_be_copied_the_last_checkpoint_is_opened(
    killed: Killed, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = laid(path, killed.database, killed.log[:-30] + bytes(30))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("app.store.recovery._copy", full)
    assert opened(path) == CHECKPOINTED
    kept_whole(before, path, "a.duckdb.wal")


def damaged_databases(database: bytes) -> Iterator[bytes]:
    for place in (0, 9, 20, 100, 4096, 4140, 4150, 8200):
        flipped = bytearray(database)
        flipped[place] ^= 0x10
        yield bytes(flipped)
    yield bytes(4096) + database[4096:]
    yield bytes(12288) + database[12288:]
    yield bytes(len(database))
    yield b""
    for length in (12, 4096, 12287, 12288, 12400, 300_000, len(database) // 2):
        yield database[:length]


def test_a_damaged_database_is_kept_with_its_log_and_a_new_one_begun(killed: Killed, path: Path) -> None:
    started_anew = 0
    for database in damaged_databases(killed.database):
        before = laid(path, database, killed.log)
        if database.startswith(bytes(12288)) and database.strip(b"\0"):
            # Nothing shows any more what it was: it may be anybody's.
            with pytest.raises(StoreError, match="not a DuckDB file"):
                open_store(str(path), LIMITS)
            assert files(path) == before
            continue
        if opened(path) == 0:
            started_anew += 1
            kept_whole(before, path, "a.duckdb")
            kept_whole(before, path, "a.duckdb.wal")
            assert {each.log for each in files_set_aside(str(path))} == {True, False}
    # One of both copies of the second header is the older one, and of no use to anybody.
    assert started_anew >= 13


def test_a_log_whose_database_is_gone_is_kept(killed: Killed, path: Path) -> None:
    """DuckDB would delete it when it makes the new database."""
    before = laid(path, None, killed.log)
    assert opened(path) == 0
    kept_whole(before, path, "a.duckdb.wal")


def test_a_log_of_another_database_is_kept(killed: Killed, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    open_store(str(other / "b.duckdb")).close()
    before = laid(path, (other / "b.duckdb").read_bytes(), killed.log)
    assert opened(path) == 0
    kept_whole(before, path, "a.duckdb.wal")


def test_damaged_files_never_overwrite_one_another(killed: Killed, path: Path) -> None:
    laid(path, killed.database, None)
    contents = set()
    for number in range(3):
        content = killed.database[: 5_000 + number]
        contents.add(content)
        path.write_bytes(content)
        open_store(str(path), LIMITS).close()
    kept = [each for name, each in files(path).items() if ".damaged-" in name]
    assert len(kept) == 3
    assert set(kept) == contents


def test_what_is_no_damage_is_refused_and_stays(killed: Killed, path: Path) -> None:
    newer, lite = path.with_name("newer.duckdb"), path.with_name("lite.duckdb")
    with sqlite3.connect(lite) as database:
        database.execute("create table all_spans (_migrations)")
    database.close()
    lite_content = lite.read_bytes()
    open_store(str(newer)).close()
    with duckdb.connect(str(newer)) as connection:
        connection.execute("insert into _migrations values (7, '0007_later', 0)")
    newer_content = newer.read_bytes()
    for content, words in (
        (b"create table all_spans (a int); -- _migrations\n" * 9000, "not a DuckDB file"),
        (lite_content, "not a DuckDB file"),
        (newer_content, "newer Spanwise"),
        (b"hello", "not a DuckDB file"),
    ):
        before = laid(path, content, None)
        with pytest.raises(StoreError, match=words):
            open_store(str(path), LIMITS)
        assert files(path) == before


def test_a_newer_format_of_the_log_is_no_damage(killed: Killed, path: Path) -> None:
    log = bytearray(killed.log)
    assert log[5] == 2
    log[5] = 9
    before = laid(path, killed.database, bytes(log))
    with pytest.raises(StoreError, match="can only read version"):
        open_store(str(path), LIMITS)
    assert files(path) == before


_LOCKING = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_damaged_file_that_another_process_holds_is_left_to_it(killed: Killed, path: Path) -> None:
    before = laid(path, killed.database[:5_000], killed.log)
    with subprocess.Popen(
        [sys.executable, "-c", _LOCKING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as held:
        assert held.stdout
        held.stdout.readline()
        with pytest.raises(StoreBusy, match="in use by"):
            open_store(str(path), LIMITS)
        assert files(path) == before
        held.communicate()
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert opened(path) == 0


def refused(store: DuckStore, sql: str) -> str:
    """What a query that fails says, empty where it answers."""
    try:
        with store.read(LIVE, ALL, 10) as reader:
            reader.rows(sql)
    except StoreError as error:
        return str(error)
    return ""


def test_a_damaged_block_fails_the_queries_that_need_it_and_no_others(killed: Killed, path: Path) -> None:
    """The store that found it says so; its senders are asked to keep what they have where it cannot be written."""
    laid(path, killed.database, killed.log)
    store = open_store(str(path), LIMITS)
    # So many that columns have blocks of their own.
    store.append(LIVE, [numbered(10**5, 100_000)])
    store.close()
    content = path.read_bytes()
    blocks = {place: content[place : place + 2**18] for place in range(12288, len(content), 2**18)}
    found = counted_all_the_same = 0
    for place in blocks:
        damaged = bytearray(content)
        damaged[place + 70_000] ^= 0xFF
        laid(path, bytes(damaged), None)
        store = open_store(str(path), LIMITS)
        if not store.damage().set_aside:
            assert store.append(LIVE, [numbered(10**6, 10)]).inserted == 10
            if message := refused(store, "select sum(hash(columns(*))) from spans"):
                found += 1
                assert "cannot be read" in message
                counted_all_the_same += refused(store, "select count(*) from spans") == ""
            assert store.damage().unreadable == message
        store.close()
    assert found
    assert counted_all_the_same


def test_values_in_an_error_are_not_taken_for_damage() -> None:
    quoted = duckdb.ConversionException("Could not convert string 'Corrupt database file' to INT32")
    assert type(translated(quoted, "the query")) is StoreError
    assert is_damage(duckdb.IOException("Could not read enough bytes from file"))
    for text in ("Out of Memory Error: failure while replaying WAL", "failure while replaying WAL: No space left"):
        assert not is_damage(duckdb.IOException(text))


def test_what_a_sender_repeats_after_the_damage_is_stored_once(killed: Killed, path: Path) -> None:
    laid(path, killed.database, killed.log[:-30] + bytes(30))
    store = open_store(str(path), LIMITS)
    held, _, _ = counted(store)
    everything = CHECKPOINTED + LOGGED * BATCH
    assert 0 < held < everything
    assert store.append(LIVE, [numbered(1, everything)]).duplicates == held
    assert counted(store) == (everything, everything, everything)
    store.close()
