"""`analysis.semantics.promote` over columns: once for spans that differ only in what it does not read."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analysis.semantics import ParentOrigin
from app.otlp.columns import SPANS
from app.otlp.hashing import Mask, Positions, Words, chained, sums_by_group, text_hashes
from app.otlp.key_values import Members
from app.otlp.promotion import promoted_columns
from app.otlp.wire import attributes

COLUMNS = (
    "endpoint",
    "operation_class",
    "operation",
    "peer",
    "outcome",
    "error_type",
    "http_status",
    "attempt",
    "ready_ns",
    "message_id",
    "target_hash",
    "request_class",
)
"""In the order of `promotion.promoted_columns`."""

# Grouping goes by hash: with a secret in it nobody can make spans that are taken for others.
_SEED = secrets.randbits(62)

_MEMO_SIZE = 32_768
_MEMO_TEXT_CHARACTERS = 1_000
_memo: dict[int, tuple[Any, ...]] = {}


@dataclass(frozen=True, eq=False)
class Kinds:
    """What `promote` reads besides attributes."""

    kinds: npt.NDArray[np.int32]
    status_codes: npt.NDArray[np.int32]
    names: pa.Array
    status_messages: pa.Array
    scopes: Positions
    """Place of each span's scope in the list of scope names."""
    origins: npt.NDArray[np.int64]
    odd: Mask
    """Spans whose facts are not wanted."""


class SpanAttributes(Protocol):
    """The attributes of the same spans."""

    bounds: Positions
    counts: Positions
    codes: npt.NDArray[np.int32]
    raws: pa.Array
    members: Members


def fact_columns(
    spans: Kinds, scope_names: Sequence[str], origins: Sequence[ParentOrigin], attributes_of: SpanAttributes
) -> dict[str, pa.Array]:
    """The promoted columns of spans without events."""
    keys = _keys(spans, scope_names, attributes_of)
    distinct, firsts, groups = np.unique(keys, return_index=True, return_inverse=True)
    rows: list[tuple[Any, ...]] = []
    for key, first in zip(distinct.tolist(), firsts.tolist(), strict=True):
        row = _memo.get(key)
        if row is None:
            row = _promoted(spans, first, scope_names, origins, attributes_of)
            if sum(len(value) for value in row if isinstance(value, str)) <= _MEMO_TEXT_CHARACTERS:
                if len(_memo) >= _MEMO_SIZE:
                    _memo.clear()
                _memo[key] = row
        rows.append(row)
    found = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    facts = pa.record_batch(
        [pa.array(values, SPANS.field(name).type) for name, values in zip(COLUMNS, found, strict=True)], COLUMNS
    )
    return dict(zip(COLUMNS, facts.take(pa.array(groups)).columns, strict=True))


def _keys(spans: Kinds, scope_names: Sequence[str], attributes_of: SpanAttributes) -> Words:
    members = attributes_of.members
    secret = np.zeros(len(members.semantic), np.uint64)
    semantic = np.flatnonzero(members.semantic)
    secret[semantic] = text_hashes(members.texts.take(pa.array(semantic)), _SEED)
    sums = sums_by_group(secret[members.rows[attributes_of.codes]], attributes_of.counts)
    scopes = text_hashes(pa.array(scope_names, pa.string()), _SEED)[spans.scopes]
    keys = chained(
        [
            sums,
            text_hashes(spans.names, _SEED),
            text_hashes(spans.status_messages, _SEED),
            scopes,
            spans.kinds,
            spans.status_codes,
            spans.origins,
        ]
    )
    keys[spans.odd] = 0
    return keys


def _promoted(
    spans: Kinds,
    row: int,
    scope_names: Sequence[str],
    origins: Sequence[ParentOrigin],
    attributes_of: SpanAttributes,
) -> tuple[Any, ...]:
    if spans.odd[row]:
        return ("", "", "", "", "", "", 0, 0, 0, "", 0, "")
    codes = attributes_of.codes[attributes_of.bounds[row] : attributes_of.bounds[row + 1]]
    members = attributes_of.members
    semantic = codes[members.semantic[members.rows[codes]]]
    found = attributes(attributes_of.raws.take(pa.array(semantic)).to_pylist())
    return promoted_columns(
        int(spans.kinds[row]),
        spans.names[row].as_py(),
        scope_names[spans.scopes[row]],
        int(spans.status_codes[row]),
        spans.status_messages[row].as_py(),
        origins[spans.origins[row]],
        None,
        False,
        {one.key: one.value for one in found},
        "\n".join(sorted(one.member for one in found)),
    )
