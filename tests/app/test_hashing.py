"""Hashes of columns: equal to their definition in plain numbers, and well mixed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from app.otlp.hashing import chained, first_of_each, mixed, sums_by_group, text_hashes

_64 = 2**64 - 1
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(word: int) -> int:
    """splitmix64's finaliser."""
    word = (word ^ word >> 30) * _FIRST & _64
    word = (word ^ word >> 27) * _SECOND & _64
    return word ^ word >> 31


def text_hash(data: bytes, seed: int = 0) -> int:
    """The definition of `text_hashes`, word by word."""
    total = 0
    for place, begin in enumerate(range(0, len(data), 8)):
        word = int.from_bytes(data[begin : begin + 8], "little")
        total += mix(word ^ (place + seed + 1) * _GOLDEN & _64)
    return mix((total ^ (len(data) + seed) * _FIRST) & _64)


@given(st.lists(st.binary(max_size=40)), st.integers(0, 2**62))
def test_texts_hash_as_defined(texts: list[bytes], seed: int) -> None:
    array = pa.array(texts, pa.binary())
    expected = [text_hash(text, seed) for text in texts]
    assert text_hashes(array, seed).tolist() == expected
    assert text_hashes(pa.concat_arrays([pa.array([b"before"], pa.binary()), array])[1:], seed).tolist() == expected


def test_the_hash_is_the_same_for_ever() -> None:
    assert mixed(np.array([0, 1], np.uint64)).tolist() == [0, 6238072747940578789]
    assert text_hashes(pa.array(["", "span", "a longer text of 27 bytes."])).tolist() == [
        text_hash(text) for text in (b"", b"span", b"a longer text of 27 bytes.")
    ]


@given(st.lists(st.lists(st.integers(0, _64), max_size=4), min_size=1))
def test_sums_of_groups(groups: list[list[int]]) -> None:
    values = np.array([value for group in groups for value in group], np.uint64)
    counts = np.array([len(group) for group in groups], np.int64)
    assert sums_by_group(values, counts).tolist() == [sum(group) & _64 for group in groups]


def test_order_counts_between_columns_but_not_within_a_sum() -> None:
    left, right = np.array([1], np.uint64), np.array([2], np.uint64)
    assert chained([left, right]) != chained([right, left])


def test_short_similar_texts_differ_in_half_of_all_bits() -> None:
    texts = [f"{number}" for number in range(20_000)]
    hashes = text_hashes(pa.array(texts))
    assert len(set(hashes.tolist())) == len(texts)
    flips = np.bitwise_count(hashes[1:] ^ hashes[:-1])
    assert 31.5 < flips.mean() < 32.5
    shares = [np.mean(hashes >> np.uint64(bit) & np.uint64(1)) for bit in range(64)]
    assert all(0.48 < share < 0.52 for share in shares)


def test_the_first_of_equal_ones() -> None:
    assert first_of_each(np.array([3, 1, 3, 1, 2], np.uint64)).tolist() == [True, True, False, False, True]
