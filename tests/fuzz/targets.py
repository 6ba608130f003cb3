"""What is fuzzed: each target takes any bytes and raises only where a promise is broken."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.formats.base import HEAD_BYTES, ImportRefused
from app.formats.importing import read_file
from app.formats.registry import formats
from app.ingest.decompress import decompress
from app.ingest.errors import IngestError
from app.ingest.glimpse import service_glimpsed
from app.otlp.columns import TABLES, Batch, Tally
from app.otlp.errors import DecodeError
from app.otlp.json import decode_json
from app.otlp.json_records import decode_json_by_record
from app.otlp.protobuf import decode_bodies, decode_protobuf
from app.otlp.protobuf_records import decode_by_record
from tests.app.spelled_out import assert_same, rows_of

LIMIT_BYTES = 2**20
_DATA = Path(__file__).parents[1] / "data"
_ENCODINGS = ("gzip", "deflate", "zstd", "identity")
_GOOD = ExportTraceServiceRequest()
_GOOD.resource_spans.add().scope_spans.add().spans.add(
    trace_id=b"t" * 16, span_id=b"s" * 8, name="good", start_time_unix_nano=1, end_time_unix_nano=2
)
_GOOD_BODY: bytes = _GOOD.SerializeToString()
_GOOD_ROWS = rows_of(decode_by_record(_GOOD_BODY))


class _Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage())


@contextmanager
def _no_hidden_faults() -> Iterator[None]:
    """The way back to records hides faults of the fast way."""
    log, raising = logging.getLogger("app.otlp.columnar"), _Raising(logging.ERROR)
    log.addHandler(raising)
    try:
        yield
    finally:
        log.removeHandler(raising)


def protobuf(data: bytes) -> None:
    """A batch or DecodeError, the same by columns and by record; a body beside it keeps its span."""
    found = _both_ways(decode_protobuf, decode_by_record, data)
    with _no_hidden_faults():
        group = decode_bodies([_GOOD_BODY, data, _GOOD_BODY])
    assert (found is None) == (group.errors[1] is not None)
    batches = list(group.batches())
    assert [rows_of(one) for one in (batches[0], batches[-1])] == [_GOOD_ROWS] * 2


def json(data: bytes) -> None:
    """A batch or DecodeError, the same by way of protobuf and by record."""
    _both_ways(decode_json, decode_json_by_record, data)


def _both_ways(decode: Callable[[bytes], Batch], by_record: Callable[[bytes], Batch], data: bytes) -> Batch | None:
    try:
        expected = by_record(data)
    except DecodeError as error:
        expected = None
        _explained(error)
    with _no_hidden_faults():
        try:
            found = decode(data)
        except DecodeError:
            found = None
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert_same(found, expected)
        _check(found)
    return found


def unpack(data: bytes) -> None:
    """At most as many bytes as allowed, or an error of ours; the first byte chooses the encoding."""
    encoding = _ENCODINGS[data[0] % len(_ENCODINGS)] if data else ""
    service_glimpsed(data[1:], encoding)
    try:
        unpacked = decompress(data[1:], encoding, LIMIT_BYTES)
    except IngestError as error:
        _explained(error)
    else:
        assert len(unpacked) <= LIMIT_BYTES


def files(data: bytes) -> None:
    """A file is imported or refused with a reason, and every span is accounted for; no format's `sniff` raises."""
    for one in formats():
        one.sniff(data[:HEAD_BYTES])
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        tally = Tally()
        try:
            tally = reduce(Tally.plus, (_check(one) for one in read_file(Path(file.name), LIMIT_BYTES).batches), tally)
            assert tally.accepted
        except ImportRefused as error:
            _explained(error)
            tally = error.tally
    _check_sum(tally)


def _explained(error: Exception) -> None:
    assert str(error), repr(error)


def _check(batch: Batch) -> Tally:
    for name, schema in TABLES.items():
        table = getattr(batch, name)
        assert table.schema == schema
        table.validate(full=True)
    assert batch.tally.accepted == batch.spans.num_rows
    _check_sum(batch.tally)
    return batch.tally


def _check_sum(tally: Tally) -> None:
    assert tally.found == tally.accepted + tally.joined + tally.duplicates + tally.rejected_count


TARGETS: dict[str, Callable[[bytes], None]] = {one.__name__: one for one in (protobuf, json, unpack, files)}


def corpus(target: str) -> Path:
    """The folder of inputs that are kept for a target."""
    return _DATA / ("formats" if target == "files" else f"fuzz/{target}")


def seeds(target: str) -> list[bytes]:
    """The inputs that are kept for a target, in the order of their names."""
    return [path.read_bytes() for path in sorted(corpus(target).iterdir())]
