"""Columns and records give the same rows for the same bytes, whatever the bytes."""

from __future__ import annotations

import logging
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.otlp.columnar import decode_together
from app.otlp.columns import Batch
from app.otlp.errors import DecodeError
from app.otlp.protobuf import decode_bodies, decode_protobuf
from app.otlp.protobuf_records import decode_by_record
from tests.app.otlp_messages import any_value, requests
from tests.app.spans_made import START_NS
from tests.app.spelled_out import assert_same, rows_of

NO_TRACE = bytes(16)


def assert_both_ways(body: bytes) -> None:
    expected = outcome(decode_by_record, body)
    found = outcome(decode_protobuf, body)
    if isinstance(expected, Batch) and isinstance(found, Batch):
        assert_same(found, expected)
    else:
        assert found == expected


def outcome(decode: Callable[[bytes], Batch], body: bytes) -> Batch | str:
    """The batch, or what the decoder says against the body."""
    try:
        return decode(body)
    except DecodeError as error:
        return str(error)


@pytest.fixture(autouse=True)
def _no_faults(caplog: pytest.LogCaptureFixture) -> Any:
    """The way back to records hides faults of the fast way from users; not from these tests."""
    with caplog.at_level(logging.ERROR, "app.otlp.columnar"):
        yield
    assert not caplog.get_records("call")


def message(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def key_value(key: bytes, value: bytes) -> bytes:
    return message(1, key) + message(2, value)


def span(*attributes: bytes, **changes: bytes) -> bytes:
    """A Span of hand-made fields; a field that is changed to b"" is left out."""
    fields = {
        "trace_id": message(1, b"t" * 16),
        "span_id": message(2, b"s" * 8),
        "parent": message(4, b"p" * 8),
        "name": message(5, b"GET /"),
        "kind": b"\x30\x02",
        "start": b"\x39" + struct.pack("<Q", START_NS),
        "end": b"\x41" + struct.pack("<Q", START_NS + 5),
    } | changes
    return b"".join(fields.values()) + b"".join(message(9, raw) for raw in attributes)


def request(*spans: bytes, resource: bytes = b"", scope: bytes = b"") -> bytes:
    inner = (message(1, scope) if scope else b"") + b"".join(message(2, one) for one in spans)
    return message(1, (message(1, resource) if resource else b"") + message(2, inner))


STRINGS = ["", "x", "https://a/b?c=d", 'q"uote', "back\\slash", "line\nbreak", "nul\0", "\x7f", "é", "日本"]
STRINGS += ["a" * 126, "a" * 130, "a" * 70_000]
DOUBLES = [0.0, -0.0, 1.0, -1.0, 0.1, 1e-4, 9.9e-5, 1e10, 9999999999.5, 1e10 - 1, 123.456, 1e16, 1e22, 1e300, 5e-324]
DOUBLES += [float("nan"), float("inf"), float("-inf"), 1 / 3, 100.0, 2.5, 1e-5]
VALUES = [message(1, text.encode()) for text in STRINGS] + [
    b"\x10\x00",
    b"\x10\x01",
    b"\x10\x02",
    *(b"\x18" + varint(number) for number in (0, 1, 127, 128, 300, 2**14, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)),
    b"\x18\x80\x00",
    b"\x18" + b"\x80" * 9 + b"\x00",
    b"\x18" + b"\xff" * 11,
    *(b"\x21" + struct.pack("<d", number) for number in DOUBLES),
    b"",
    b"\x2a\x00",
    message(5, message(1, message(1, b"in"))),
    message(6, message(1, key_value(b"k", message(1, b"v")))),
    message(7, b"\x00\xff"),
    b"\x40\x01",
    message(1, b"\xff\xfe"),
    message(1, b"a") + message(1, b"b"),
    message(1, b"a") + b"\x18\x05",
    b"\x0a\x05ab",
    b"\xff",
]
KEYS = [b"http.route", b"url.full", b"k", b"", b"a", b"a.b", b"a b", b"a!", b'a"', b"\xff", "ключ".encode(), b"k" * 200]


@pytest.mark.parametrize("value", VALUES)
def test_values_of_every_layout(value: bytes) -> None:
    for key in KEYS:
        assert_both_ways(request(span(key_value(key, value), key_value(b"z", message(1, b"1"))), span()))


def test_attributes_in_odd_layouts() -> None:
    odd = [
        b"",
        b"\x0a",
        message(1, b"k"),
        message(2, message(1, b"v")),
        message(2, message(1, b"v")) + message(1, b"k"),
        message(1, b"k") + message(2, message(1, b"v")) + b"\x18\x07",
        message(1, b"k") + message(2, message(1, b"v")) + message(15, b"unknown"),
        message(1, b"k") + message(1, b"j") + message(2, b"\x10\x01"),
        b"\x0a\x81\x00k\x12\x02\x10\x01",
        b"\x0a\x01k\x12\x7f",
        b"\x0a\x7fk",
        b"\x0a\x01k\x12\xff\xff",
    ]
    for raw in odd:
        assert_both_ways(request(span(raw), span(key_value(b"k", b"\x10\x01"), raw), span(raw, raw)))


def test_keys_are_ordered_and_the_last_of_equal_ones_counts() -> None:
    values = [key_value(key, message(1, str(place).encode())) for place, key in enumerate(KEYS)]
    chance = random.Random(1)
    spans = []
    for number in range(60):
        picked = chance.sample(values, chance.randrange(len(values)))
        if number % 7 == 0:
            picked += picked[:1]
        if number % 5 == 0:
            picked.append(key_value(b"k", message(1, b"again")))
        spans.append(span(*picked, span_id=message(2, struct.pack(">Q", number // 2 + 1))))
    assert_both_ways(request(*spans))


CHANGES = [
    {"trace_id": b""},
    {"trace_id": message(1, b"t" * 8)},
    {"trace_id": message(1, NO_TRACE)},
    {"trace_id": message(1, b"t" * 16) + message(1, b"u" * 16)},
    {"span_id": b""},
    {"span_id": message(2, bytes(8))},
    {"span_id": message(2, b"s" * 16)},
    {"parent": b""},
    {"parent": message(4, bytes(8))},
    {"parent": message(4, b"p")},
    {"name": b""},
    {"name": message(5, b"\xc3(")},
    {"name": message(5, "é".encode())},
    {"kind": b""},
    {"kind": b"\x30\x09"},
    {"kind": b"\x30\x80\x02"},
    {"kind": b"\x30" + varint(2**64 - 1)},
    {"kind": b"\x30" + varint(2**32 + 2)},
    {"kind": b"\x32\x01\x02"},
    {"start": b""},
    {"start": b"\x39" + struct.pack("<Q", 2**63)},
    {"start": b"\x38\x05"},
    {"end": b""},
    {"end": b"\x41" + struct.pack("<Q", 5)},
    {"end": b"\x41" + struct.pack("<Q", 2**64 - 1)},
    {"state": message(3, b"a=b")},
    {"state": message(3, b"\xff")},
    {"status": message(15, b"\x18\x02" + message(2, b"bad"))},
    {"status": message(15, b"\x18\x02") + message(15, message(2, b"merged"))},
    {"status": message(15, message(2, b"\xff"))},
    {"status": message(15, b"\x18" + varint(2**64 - 5))},
    {"status": message(15, b"")},
    {"flags": b"\x85\x01" + struct.pack("<I", 0x100)},
    {"flags": b"\x85\x01" + struct.pack("<I", 0x301)},
    {"flags": b"\x85\x01" + struct.pack("<I", 2**32 - 1), "parent": b""},
    {"dropped": b"\x50\x07\x60\x08\x70\x09"},
    {"dropped": b"\x50" + varint(2**40 + 3)},
    {"event": message(11, message(2, b"exception") + message(3, key_value(b"exception.type", message(1, b"E"))))},
    {"event": message(11, b"")},
    {"event": message(11, b"\xff")},
    {"link": message(13, message(1, b"l" * 16) + message(2, b"m" * 8))},
    {"link": message(13, message(1, b"l"))},
    {"unknown": message(99, b"x") + b"\x98\x06\x01"},
    {"group": b"\xa3\x06\x08\x01\xa4\x06"},
    {"torn": b"\x39\x00"},
    {"zero": b"\x00\x01"},
]


@pytest.mark.parametrize("change", CHANGES)
def test_spans_of_every_kind_between_usual_ones(change: dict[str, bytes]) -> None:
    route = key_value(b"http.route", message(1, b"/r"))
    assert_both_ways(request(span(route), span(route, **change), span(), span(**change), span(route, span_id=b"")))


def test_several_resources_scopes_and_split_messages() -> None:
    service = [message(1, key_value(b"service.name", message(1, name))) for name in (b"a", b"b\xff", b"c")]
    one, two = request(span(), resource=service[0], scope=message(1, b"s")), request(span(), resource=service[1])
    empty = message(1, b"") + message(1, message(2, b""))
    split = message(1, message(1, service[0]) + message(1, service[2]) + message(2, message(2, span())))
    old = message(1, message(1, service[0]) + message(1000, message(1, message(1, b"lib")) + message(2, span())))
    twice = message(1, message(2, message(1, message(1, b"x")) + message(1, message(2, b"1")) + message(2, span())))
    for body in (one + two, two + one + empty + one, split, old, twice + split, empty, b"", one + message(9, b"x")):
        assert_both_ways(body)


def test_repeats_are_counted_whichever_way_they_come() -> None:
    value, other = (key_value(b"k", message(1, text)) for text in (b"v", b"w"))
    event = message(11, message(2, b"e"))
    # The second span is mended into a repeat of the first: the last of two equal keys counts.
    body = request(span(value), span(other, value), span(value), span(event=event), span(event=event), span(other))
    assert_both_ways(body)
    assert decode_protobuf(body).tally.duplicates == 3


@settings(max_examples=60)
@given(st.lists(requests(), max_size=4))
def test_messages_alone_and_together(messages: list[ExportTraceServiceRequest]) -> None:
    bodies = [message.SerializeToString() for message in messages]
    for body in bodies:
        assert_both_ways(body)
    assert_together(bodies)


def assert_together(bodies: list[bytes]) -> None:
    group = decode_bodies(bodies)
    batches = iter(group.batches())
    for body, error in zip(bodies, group.errors, strict=True):
        expected = outcome(decode_by_record, body)
        if isinstance(expected, str):
            assert error == expected
            continue
        assert error is None
        found = next(batches)
        assert rows_of(found) == rows_of(expected)
        for name in ("events", "links"):
            assert getattr(found, name).to_pylist() == getattr(expected, name).to_pylist()
        for name in ("resources", "scopes"):
            rows = getattr(found, name).to_pylist()
            assert all(row in rows for row in getattr(expected, name).to_pylist())
        assert found.tally == expected.tally
    assert next(batches, None) is None


def test_a_broken_body_costs_its_company_nothing() -> None:
    good = request(span(key_value(b"k", message(1, b"v"))), span(event=message(11, message(2, b"e"))))
    linked = span(link=message(13, message(1, b"l" * 16) + message(2, b"m" * 8)))
    libraries = message(1, message(1000, message(2, linked)))
    assert_together([good, b"\xff", good, libraries, b"", good + b"\x0a", good])
    assert_together([b"\xff"])
    assert_together([])


@settings(max_examples=300)
@given(requests(), st.randoms(use_true_random=False))
def test_damaged_bytes(official: ExportTraceServiceRequest, chance: random.Random) -> None:
    body = bytearray(official.SerializeToString())
    for _ in range(chance.randrange(1, 4)):
        if body:
            place = chance.randrange(len(body))
            match chance.randrange(3):
                case 0:
                    body[place] = chance.randrange(256)
                case 1:
                    del body[place]
                case _:
                    del body[place:]
    assert_both_ways(bytes(body))


def test_a_deep_value_and_many_attributes() -> None:
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    many = [key_value(f"key{number % 70_000}".encode(), b"\x18" + varint(number)) for number in range(80_000)]
    assert_both_ways(request(span(key_value(b"d", any_value(deep).SerializeToString())), span(*many)))


def test_usual_spans_take_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    body = request(*(span(span_id=message(2, struct.pack(">Q", number))) for number in range(1, 50)))
    expected = decode_by_record(body)
    monkeypatch.setattr("app.otlp.columnar.span_record", None)
    group = decode_together([body])
    assert group is not None
    assert_same(group.batch, expected)
