"""Shapes and typed facts over columns: worked out once for spans that differ only in what these do not read."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analysis.semantics import ParentOrigin
from app.otlp.columns import SPANS
from app.otlp.hashing import Mask, Positions, Words, chained, sums_by_group, text_hashes
from app.otlp.key_values import Members
from app.otlp.promotion import promoted, shape_of
from app.otlp.records import ResourceRecord, ScopeRecord
from app.otlp.shapes import Shape, Shapes, shape_hash
from app.otlp.wire import attributes

# Grouping goes by hash: with a secret in it nobody can make spans that are taken for others.
_SEED = secrets.randbits(62)

_MEMO_SIZE = 32_768
_MEMO_TEXT_CHARACTERS = 1_000


class _Facts(NamedTuple):
    shape: Shape
    shape_hash: int
    ready_ns: int
    message_id: str
    target_hash: int


_memo: dict[int, _Facts] = {}


@dataclass(frozen=True, eq=False)
class Kinds:
    """What shapes and facts depend on besides attributes."""

    kinds: npt.NDArray[np.int32]
    status_codes: npt.NDArray[np.int32]
    names: pa.Array
    status_messages: pa.Array
    flags: npt.NDArray[np.uint32]
    dropped: tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint32]]
    """Counts of attributes, events and links."""
    owners: Positions
    """Place of each span's resource and scope in the lists of both."""
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


@dataclass(frozen=True)
class Owners:
    """Resource and scope of each group of spans, and the names of `Kinds.origins`."""

    resources: Sequence[ResourceRecord]
    scopes: Sequence[ScopeRecord]
    origins: Sequence[ParentOrigin]


def fact_columns(
    spans: Kinds, owners: Owners, attributes_of: SpanAttributes, shapes: Shapes
) -> tuple[dict[str, pa.Array], Words]:
    """The columns `shape`, `ready_ns`, `message_id` and `target_hash` of spans without events; each shape's hash."""
    distinct, firsts, groups = np.unique(_keys(spans, owners, attributes_of), return_index=True, return_inverse=True)
    count = len(distinct)
    places, hashes = np.zeros(count, np.uint32), np.zeros(count, np.uint64)
    ready, targets = np.zeros(count, np.int64), np.zeros(count, np.uint64)
    messages = [""] * count
    for group, (key, first) in enumerate(zip(distinct.tolist(), firsts.tolist(), strict=True)):
        if not key:
            continue
        facts = _memo.get(key) or _remembered(key, _facts(spans, first, owners, attributes_of))
        places[group] = shapes.place(facts.shape, facts.shape_hash)
        hashes[group] = facts.shape_hash
        ready[group], targets[group], messages[group] = facts.ready_ns, facts.target_hash, facts.message_id
    ids = pa.array(messages).take(pa.array(groups)) if any(messages) else pa.repeat("", len(groups))
    columns = {
        "shape": pa.array(places[groups]),
        "ready_ns": pa.array(ready[groups]),
        "message_id": ids.cast(SPANS.field("message_id").type),
        "target_hash": pa.array(targets[groups]),
    }
    return columns, hashes[groups]


def _keys(spans: Kinds, owners: Owners, attributes_of: SpanAttributes) -> Words:
    """Equal for spans with equal shape and facts; 0 for those that are not wanted, and for no others."""
    members = attributes_of.members
    secret = np.zeros(len(members.semantic), np.uint64)
    semantic = np.flatnonzero(members.semantic)
    secret[semantic] = text_hashes(members.texts.take(pa.array(semantic)), _SEED)
    sums = sums_by_group(secret[members.rows[attributes_of.codes]], attributes_of.counts)
    owner_ids = [
        np.array([one.resource_id for one in owners.resources], np.uint64),
        np.array([one.scope_id for one in owners.scopes], np.uint64),
    ]
    # Kind and status fill a byte each where they are not odd, flags and counts 32 bits.
    small = spans.flags.astype(np.uint64) << np.uint64(32) | spans.origins.astype(np.uint64) << np.uint64(16)
    small |= spans.kinds.astype(np.uint64) << np.uint64(8) | spans.status_codes.astype(np.uint64)
    dropped = [one.astype(np.uint64) for one in spans.dropped]
    keys = chained(
        [
            sums,
            text_hashes(spans.names, _SEED),
            text_hashes(spans.status_messages, _SEED),
            chained(owner_ids)[spans.owners] if len(owners.scopes) else sums,
            small,
            dropped[0] << np.uint64(32) | dropped[1],
            dropped[2],
        ]
    )
    keys[keys == 0] = 1
    keys[spans.odd] = 0
    return keys


def _remembered(key: int, facts: _Facts) -> _Facts:
    if sum(len(value) for value in (*facts.shape, facts.message_id) if isinstance(value, str)) <= _MEMO_TEXT_CHARACTERS:
        if len(_memo) >= _MEMO_SIZE:
            _memo.clear()
        _memo[key] = facts
    return facts


def _facts(spans: Kinds, row: int, owners: Owners, attributes_of: SpanAttributes) -> _Facts:
    codes = attributes_of.codes[attributes_of.bounds[row] : attributes_of.bounds[row + 1]]
    members = attributes_of.members
    semantic = codes[members.semantic[members.rows[codes]]]
    found = attributes(attributes_of.raws.take(pa.array(semantic)).to_pylist())
    owner = int(spans.owners[row])
    resource, scope = owners.resources[owner], owners.scopes[owner]
    kind, name, status = int(spans.kinds[row]), spans.names[row].as_py(), int(spans.status_codes[row])
    origin = owners.origins[spans.origins[row]]
    facts = promoted(
        kind,
        name,
        scope.name,
        status,
        spans.status_messages[row].as_py(),
        origin,
        None,
        False,
        {one.key: one.value for one in found},
        "\n".join(sorted(one.member for one in found)),
    )
    attribute_count, event_count, link_count = (int(one[row]) for one in spans.dropped)
    shape = shape_of(
        kind,
        origin,
        resource.process,
        scope.name,
        name,
        status,
        facts,
        resource.resource_id,
        scope.scope_id,
        int(spans.flags[row]),
        (attribute_count, event_count, link_count),
    )
    return _Facts(shape, shape_hash(shape), facts.ready_ns, facts.message_id, facts.target_hash)
