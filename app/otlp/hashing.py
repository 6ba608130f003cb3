"""64-bit content hashes of whole columns at once, the same in every process, on every platform and in every release.

Built on splitmix64's finaliser (Steele, Lea, Flood 2014). It mixes well but is no cryptographic hash: it recognises
repeats, nothing is kept apart by it alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

assert sys.byteorder == "little", "words are read as they lie in memory"


def mixed(words: Words) -> Words:
    """Every bit of each word spread over all of it: splitmix64's finaliser."""
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    words ^= words >> np.uint64(31)
    return words


def segments(array: pa.Array) -> tuple[Bytes, Positions, Positions]:
    """Bytes, starts and lengths of a string or binary array without nulls; the bytes are not copied."""
    offsets = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, array.offset * 4).astype(np.int64)
    data = array.buffers()[2]
    return np.frombuffer(data if data is not None else b"", np.uint8), offsets[:-1], np.diff(offsets)


def segment_hashes(data: Bytes, starts: Positions, lengths: Positions, seed: int = 0) -> Words:
    """A hash for each stretch of bytes: the sum of its mixed words, each of which knows its place, and the length."""
    counts = (lengths + 7) >> 3
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    sums = np.zeros(len(lengths), np.uint64)
    if total:
        firsts = ends - counts
        place = np.arange(total) - np.repeat(firsts, counts)
        padded = np.empty(len(data) + 8, np.uint8)
        padded[: len(data)] = data
        padded[len(data) :] = 0
        unaligned = np.ndarray((len(data) + 1,), np.dtype("<u8"), padded.data, 0, (1,))
        words = unaligned[np.repeat(starts, counts) + (place << 3)]
        odd = (lengths & 7) != 0
        shift = ((8 - (lengths[odd] & 7)) << 3).astype(np.uint64)
        last = ends[odd] - 1
        words[last] = words[last] << shift >> shift
        words ^= (place.astype(np.uint64) + np.uint64(seed + 1 & 0xFFFF_FFFF_FFFF_FFFF)) * _GOLDEN
        running = np.cumsum(mixed(words))
        filled = counts > 0
        sums[filled] = running[ends[filled] - 1]
        begun = filled & (firsts > 0)
        sums[begun] -= running[firsts[begun] - 1]
    return mixed(sums ^ (lengths.astype(np.uint64) + np.uint64(seed)) * _FIRST)


def text_hashes(array: pa.Array, seed: int = 0) -> Words:
    """A hash for each text of a string or binary array without nulls."""
    return segment_hashes(*segments(array), seed)


def sums_by_group(values: Words, counts: Positions) -> Words:
    """The sum of each group's values, whatever their order; groups lie one after the other."""
    running = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values, out=running[1:])
    ends = np.cumsum(counts)
    sums: Words = running[ends] - running[ends - counts]
    return sums


def chained(columns: Iterable[npt.NDArray[np.generic]]) -> Words:
    """One hash a row over whole-number columns, in which the order of the columns counts."""
    hashes: Words | None = None
    for column in columns:
        words = column.astype(np.uint64)
        hashes = mixed(words + _GOLDEN if hashes is None else (hashes * _GOLDEN + _SECOND) ^ words)
    assert hashes is not None
    return hashes


_HASHED_NUMBERS = ("span_id", "parent_span_id", "start_ns", "duration_ns")
_HASHED_TEXTS = ("status_message", "trace_state", "notes")


def span_hashes(columns: dict[str, pa.Array], shapes: Words, attributes: Words, details: Words) -> Words:
    """`span_hash` of each span: 63 bits over everything that a sender said, never 0.

    `shapes` is the hash of each span's shape, `attributes` the sum of `text_hashes` over the members of the
    attributes' JSON text, `details` a hash of events and links, 0 where there are none.
    """
    ids = columns["trace_id"].storage
    if not len(ids):
        return np.zeros(0, np.uint64)
    halves = np.frombuffer(ids.buffers()[1], np.uint64, 2 * len(ids), ids.offset * 16).reshape(-1, 2)
    numbers = [columns[name].to_numpy(zero_copy_only=False) for name in _HASHED_NUMBERS]
    texts = [text_hashes(columns[name]) for name in _HASHED_TEXTS]
    hashes = chained([halves[:, 0], halves[:, 1], *numbers, *texts, shapes, attributes, details]) >> np.uint64(1)
    hashes[hashes == 0] = 1
    return hashes


def first_of_each(hashes: Words) -> Mask:
    """Marks the first of equal hashes."""
    mask = np.zeros(len(hashes), np.bool_)
    mask[np.unique(hashes, return_index=True)[1]] = True
    return mask


def member_hash_sums(members: Sequence[Sequence[str]]) -> Words:
    """The `attributes` of `span_hashes` for spans whose attributes are at hand as texts."""
    flat = [member for one in members for member in one]
    counts = np.fromiter((len(one) for one in members), np.int64, len(members))
    return sums_by_group(text_hashes(pa.array(flat, pa.string())), counts)
