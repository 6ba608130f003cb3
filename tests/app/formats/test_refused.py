"""Broken, unknown and hostile files: nothing is imported, and the message says where and why."""

from __future__ import annotations

import gzip
import json
import pickle
from functools import reduce
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.formats.base import ImportRefused
from app.formats.importing import read_file
from app.formats.outline import outline
from app.formats.registry import formats
from app.otlp.columns import Tally
from tests.app.formats.imported import FIXTURES, imported, tally_of, write_json


def refused(path: Path, limit_bytes: int = 2**30) -> ImportRefused:
    with pytest.raises(ImportRefused) as caught:
        list(read_file(path, limit_bytes).batches)
    return caught.value


def made(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(content)
    return path


def test_truncated_gzip_names_the_byte(tmp_path: Path) -> None:
    packed = gzip.compress((FIXTURES / "jaeger.json").read_bytes())
    error = refused(made(tmp_path, packed[:-20]))
    assert error.byte == len(packed) - 20
    assert "cut off" in error.message


def test_broken_gzip_names_the_byte(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress((FIXTURES / "jaeger.json").read_bytes()))
    packed[-6] ^= 0xFF
    error = refused(made(tmp_path, bytes(packed)))
    # The checksum is known to be wrong once all of it is read.
    assert error.byte == len(packed) - 5
    assert "broken gzip data" in error.message


def test_truncated_and_broken_zstd(tmp_path: Path) -> None:
    packed = zstandard.compress((FIXTURES / "jaeger.json").read_bytes())
    assert refused(made(tmp_path, packed[:-9])).byte == len(packed) - 9
    assert "zstd" in refused(made(tmp_path, packed[:10] + b"\xff" * 40)).message


def test_a_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    bomb = gzip.compress(b'{"resourceSpans": [' + b" " * 30_000_000)
    assert "more than 10 MiB after decompression" in refused(made(tmp_path, bomb), 10 * 2**20).message
    packed = zstandard.compress(b'{"resourceSpans": [' + b" " * 30_000_000)
    assert "more than 10 MiB after decompression" in refused(made(tmp_path, packed), 10 * 2**20).message
    assert "more than 0 MiB" in refused(FIXTURES / "otlp.jsonl", 100).message


@pytest.mark.parametrize("name", ["otlp.json", "jaeger.json", "zipkin.json"])
def test_a_trailing_comma_has_line_and_column(name: str, tmp_path: Path) -> None:
    content = (FIXTURES / name).read_text().rstrip().removesuffix("}").removesuffix("]") + ",,\n"
    error = refused(made(tmp_path, content.encode()))
    assert error.line == content.count("\n", 0, content.index(",,")) + 1
    assert error.column
    assert content.encode()[error.byte or 0 :][:1] in (b",", b"]", b"}", b"\n")
    assert error.tally.unreadable[0].first == error.place


def test_columns_and_bytes_are_told_apart(tmp_path: Path) -> None:
    error = refused(made(tmp_path, '[{"traceId": "1", "id": "2", "name": "个人" oops}]'.encode()))
    assert (error.line, error.column, error.byte) == (1, 43, 46)


def test_a_cut_off_protobuf_file_imports_nothing(tmp_path: Path) -> None:
    content = (FIXTURES / "otlp.pb").read_bytes()
    assert refused(made(tmp_path, content[:-7])).byte == len(content) - 7
    error = refused(made(tmp_path, content + b"\x12\x03abc"))
    assert error.byte == len(content)


def test_broken_inner_protobuf_is_refused(tmp_path: Path) -> None:
    content = bytearray((FIXTURES / "otlp.pb").read_bytes())
    content[content.index(b"GET /cart") - 1] = 0x7F
    assert "protobuf" in refused(made(tmp_path, bytes(content))).message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b" \r\n\t\n", "the file is empty"),
        (b"\xef\xbb\xbf\n", "the file is empty"),
        (b"GET /cart 200\nGET /cart 500\n", "text that begins with 'GET /cart 200"),
        (b'{"spam": 1, "eggs": {"traceId": 1}}', 'a JSON object with the keys "spam", "eggs"'),
        (b'[{"spam": 1}, {"eggs": 2}]', 'a JSON list of objects with the keys "spam", "eggs"'),
        (b"PK\x03\x04\x00\x01\x02\x03", "begins with the bytes 50 4b 03 04"),
        (b"\x00" * 50, "begins with the bytes 00 00"),
        (b"[]", "text that begins with '[]'"),
        (b"[[[[[[[[[[", "text that begins with"),
        (b'{"data": [], "total": 0, "limit": 0, "offset": 0}', "the file holds none"),
        (b'{"resourceSpans": []}', "the file holds none"),
        (b'{"resourceSpans": 7}', "resourceSpans is not a list"),
        (b'{"resourceSpans": [' + b"[" * 200_000, "nested too deep"),
        (b'[{"traceId":"1","id":"1","timestamp":' + b"9" * 5_000 + b"}]", "not JSON"),
    ],
)
def test_what_is_refused_and_why(content: bytes, words: str, tmp_path: Path) -> None:
    error = refused(made(tmp_path, content))
    assert words in error.message
    assert error.tally.accepted == 0


def test_a_large_blank_file_is_empty(tmp_path: Path) -> None:
    assert refused(made(tmp_path, b"\n" * 200_000)).message == "the file is empty"


def test_a_refusal_crosses_processes_unchanged() -> None:
    error = ImportRefused("broken", "mend it", 3, 7, 99)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "broken (line 3, column 7, byte 99)\nhint: mend it"
    assert copy.tally == error.tally


def test_hostile_values_cost_only_themselves(tmp_path: Path) -> None:
    deep: object = "end"
    for _ in range(300):
        deep = [deep]
    span = {
        "traceID": "1",
        "spanID": "2",
        "operationName": "x" * 1_000_000 + "\x00\ud800<script>",
        "startTime": 1,
        "duration": 1,
        "flags": 10**30,
        "tags": [
            {"key": "http.status_code", "type": "int64", "value": 10**40},
            {"key": "deep", "value": deep},
            {"key": "number", "type": "float64", "value": "1e999"},
            {"key": None, "value": None},
            {"key": "k", "value": 1},
            {"key": "k", "value": 2},
            7,
        ],
        "logs": [{"timestamp": -(10**30), "fields": "none"}, None],
        "references": [{"spanID": {}}, [], {"refType": 3, "spanID": "9" * 5_000}],
        "warnings": [None, "\x00"],
        "processID": ["p1"],
    }
    bad = [
        {**span, "spanID": "3", "startTime": 2**70},
        {**span, "spanID": "3", "startTime": int("9" * 4_299)},
        {**span, "spanID": "3", "startTime": 1e308},
        {**span, "spanID": "3", "duration": float("inf")},
        {**span, "spanID": "4", "startTime": float("nan")},
        {**span, "spanID": "5", "startTime": True},
        {**span, "spanID": "6", "startTime": None},
        {**span, "spanID": "0"},
        {**span, "spanID": None},
        None,
        "span",
    ]
    path = write_json(tmp_path / "hostile.json", {"data": [{"traceID": "1", "spans": [span, *bad]}, 7, {"spans": 7}]})
    with imported(path) as (dataset, spans):
        assert (dataset.tally.found, dataset.tally.accepted) == (12, 1)
        [(name, attributes)] = spans.rows("select name, attributes from trace_spans")
    assert len(name) > 1_000_000
    assert json.loads(attributes)["k#2"] == 2


@pytest.mark.parametrize("depth", [100, 400, 700, 900, 960, 990, 5_000])
def test_deep_nesting_is_kept_or_refused_in_words(depth: int, tmp_path: Path) -> None:
    deep = "[" * depth + "]" * depth
    jaeger = '{"traceID": "1", "spanID": "2", "startTime": 1, "tags": [%s, %s]}'
    zipkin = '{"traceId": "1", "id": "2", "timestamp": 1, "tags": {"deep": %s}, "name": "%s"}'
    tags = [f'{{"key": "deep", "value": {value}}}' for value in (deep, deep.replace("[]", "[1]"))]
    for content in (jaeger % tuple(tags), "[" + ",".join(zipkin % (deep, name) for name in "ab") + "]"):
        path = tmp_path / "deep.json"
        path.write_text(content if content.startswith("[") else f"[{content}]")
        tally = tally_of(path)
        reasons = [one.reason for one in tally.rejected + tally.unreadable]
        assert tally.accepted or any("nested too deep" in reason for reason in reasons)
        assert tally.accepted or depth > 500


def test_hostile_zipkin_reports(tmp_path: Path) -> None:
    report = {"traceId": "1", "id": "2", "timestamp": 5, "tags": [], "annotations": {"a": 1}, "localEndpoint": "x"}
    others = [
        {**report, "id": "3", "timestamp": "soon"},
        {**report, "id": "4", "timestamp": -5},
        {**report, "id": "5", "annotations": [{"timestamp": "x", "value": 1}]},
        {**report, "id": None},
        5,
    ]
    assert (tally := tally_of(write_json(tmp_path / "z.json", [report, *others]))).accepted == 1
    assert tally.rejected_count == 5


@given(st.binary(max_size=300) | st.text(alphabet='{}[]",:\\ traceIDspn1\n', max_size=300).map(str.encode))
def test_sniffing_never_raises(head: bytes) -> None:
    for one in formats():
        one.sniff(head)


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_an_outline_finds_the_end_and_the_top_keys(document: object) -> None:
    words = json.dumps(document)
    found = outline(words)
    if isinstance(document, (dict, list)):
        assert found.end == len(words)
    if isinstance(document, dict):
        assert len(found.keys()) == len({json.dumps(key)[1:-1][:100] for key in document})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["otlp.json", "otlp.jsonl", "otlp.pb", "jaeger.json", "zipkin.json"]),
    packed=st.booleans(),
    cut=st.integers(0, 4_000),
    damage=st.lists(st.tuples(st.integers(0, 4_000), st.binary(max_size=4)), max_size=4),
)
def test_a_damaged_file_is_read_or_refused(
    name: str, packed: bool, cut: int, damage: list[tuple[int, bytes]], tmp_path: Path
) -> None:
    whole = (FIXTURES / name).read_bytes()
    content = bytearray(gzip.compress(whole) if packed else whole)
    for position, piece in damage:
        content[position : position + len(piece)] = piece
    path = made(tmp_path, bytes(content[: max(cut, 200)]))
    try:
        tally = reduce(Tally.plus, (batch.tally for batch in read_file(path, 10 * 2**20).batches))
        assert tally.accepted
    except ImportRefused as error:
        tally = error.tally
    assert tally.found == tally.accepted + tally.joined + tally.duplicates + tally.rejected_count
