"""What the fuzzer once found, and damaged copies of it, on every run of the tests; `make fuzz` looks for more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.otlp.columns import Batch
from app.otlp.protobuf_records import decode_by_record
from tests.fuzz import targets
from tests.fuzz.targets import TARGETS, seeds

_EDITS = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4)


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """The bytes after some were left out and others put in."""
    for place, left_out, put_in in edits:
        begin = place % (len(data) + 1)
        data = data[:begin] + put_in + data[begin + left_out :]
    return data


@pytest.mark.parametrize("target", TARGETS)
def test_kept_inputs_break_no_promise(target: str) -> None:
    kept = seeds(target)
    assert len(kept) >= 5
    for data in kept:
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_inputs_break_no_promise(target: str, data: st.DataObject) -> None:
    TARGETS[target](edited(data.draw(st.sampled_from(seeds(target))), data.draw(_EDITS)))


def _lost(_: bytes) -> Batch:
    return decode_by_record(b"")


def _fails(*_: object) -> Batch:
    raise IndexError


@pytest.mark.parametrize(
    ("target", "name", "broken", "raised"),
    [
        ("protobuf", "decode_protobuf", _fails, IndexError),
        ("protobuf", "decode_protobuf", _lost, AssertionError),
        ("protobuf", "decode_bodies", _fails, IndexError),
        ("json", "decode_json", _fails, IndexError),
        ("unpack", "decompress", _fails, IndexError),
        ("files", "read_file", _fails, IndexError),
    ],
)
def test_a_broken_promise_is_seen(
    target: str, name: str, broken: object, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, name, broken)
    with pytest.raises(raised):
        TARGETS[target](seeds(target)[-1])
