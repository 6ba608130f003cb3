"""Distinct attributes from protobuf bytes to members of JSON text, all of a kind at once.

What does not look as most senders write it (escapes, other alphabets, arrays, broken text) goes through
`app.otlp.wire`, one by one; both ways give the same text.
"""

from __future__ import annotations

from dataclasses import dataclass
from json.encoder import encode_basestring

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from app.otlp.attributes import clean
from app.otlp.hashing import Bytes, Positions, Words, segment_hashes, segments
from app.otlp.promotion import SEMANTIC_KEYS
from app.otlp.wire import attributes

Mask = npt.NDArray[np.bool_]

_PLAIN = np.zeros(256, np.bool_)
_PLAIN[0x20:0x80] = True
_PLAIN[[0x22, 0x5C]] = False
"""Bytes that stand for themselves in JSON text; the rest needs escapes or a check of its encoding."""

_STRING, _BOOL, _INT, _DOUBLE = 0x0A, 0x10, 0x18, 0x21


@dataclass(frozen=True, eq=False)
class Members:
    """A member of JSON text with a comma behind it for each distinct attribute, and what else is known of it."""

    texts: pa.Array
    """Strings; not in the order of the attributes: see `rows`."""
    rows: npt.NDArray[np.int32]
    """Where each attribute's text is in `texts`; the arrays below follow `texts`."""
    ranks: Positions
    """The order of members within one text; equal for equal keys."""
    hashes: Words
    semantic: Mask
    odd: Mask
    """Something was mended or is broken: the span needs a note."""


def members_of(raws: pa.Array) -> Members:
    """The members of distinct KeyValue messages (a binary array)."""
    data, starts, lengths = segments(raws)
    layout = _Layout(data, starts, lengths)
    keys = _slices(data, starts + 2, np.where(layout.regular, layout.key_lengths, 0)).dictionary_encode()
    codes = keys.indices.to_numpy(zero_copy_only=False)
    fronts, sane = _fronts(keys.dictionary)
    regular = layout.regular & sane[codes]
    kinds = np.where(regular, layout.kinds, 0)
    found = [
        (chosen, make(layout, chosen, fronts.take(pa.array(codes[chosen]))))
        for kind, make in ((_STRING, _strings), (_INT, _ints), (_BOOL, _bools), (_DOUBLE, _doubles))
        if len(chosen := np.flatnonzero(layout.taken(kinds, kind)))
    ]
    left = np.ones(len(raws), np.bool_)
    for chosen, _ in found:
        left[chosen] = False
    others = np.flatnonzero(left)
    decoded = attributes(raws.take(pa.array(others)).to_pylist())
    arrays = [texts for _, texts in found]
    arrays.append(pa.array([one.member + "," for one in decoded], pa.string()))
    order = np.concatenate([*(chosen for chosen, _ in found), others])
    rows = np.empty(len(raws), np.int32)
    rows[order] = np.arange(len(raws), dtype=np.int32)
    texts = pa.concat_arrays(arrays)
    front_texts = fronts.to_pylist()
    own_fronts = [encode_basestring(clean(one.key)) + ":" for one in decoded]
    places = {front: place for place, front in enumerate(sorted({*front_texts, *own_fronts}))}
    ranks = np.empty(len(raws), np.int64)
    fast = order[: len(raws) - len(others)]
    ranks[: len(fast)] = np.fromiter((places[front] for front in front_texts), np.int64)[codes[fast]]
    ranks[len(fast) :] = [places[front] for front in own_fronts]
    known = np.fromiter((key.decode("utf-8", "replace") in SEMANTIC_KEYS for key in keys.dictionary.to_pylist()), bool)
    semantic = np.concatenate([known[codes[fast]], np.fromiter((one.semantic for one in decoded), np.bool_)])
    odd = np.zeros(len(raws), np.bool_)
    odd[len(fast) :] = [bool(one.notes) for one in decoded]
    text_data, text_starts, text_lengths = segments(texts)
    return Members(
        texts, rows, ranks, segment_hashes(text_data, text_starts, text_lengths - 1), semantic.astype(np.bool_), odd
    )


class _Layout:
    """Where key and value are, in attributes laid out as all senders do: both short, key first, nothing else."""

    def __init__(self, data: Bytes, starts: Positions, lengths: Positions) -> None:
        # Twice the longest short field, so that reads behind the last attribute stay inside.
        self.data = np.concatenate([data, np.zeros(320, np.uint8)])
        self.ends = starts + lengths
        self.key_lengths = self._at(starts + 1)
        value = starts + 4 + self.key_lengths
        self.values = value
        self.sizes = self._at(value - 1)
        self.kinds = self._at(value)
        self.regular: Mask = (
            (lengths >= 6)
            & (self._at(starts) == 0x0A)
            & (self.key_lengths < 128)
            & (self._at(value - 2) == 0x12)
            & (self.sizes < 128)
            & (self.sizes >= 2)
            & (value + self.sizes == self.ends)
        )

    def _at(self, positions: Positions) -> Positions:
        return self.data[positions].astype(np.int64)

    def taken(self, kinds: Positions, kind: int) -> Mask:
        """Which attributes are of the kind and as short and plain as its maker wants them."""
        chosen: Mask = kinds == kind
        if kind == _STRING:
            chosen &= self._at(self.values + 1) == self.sizes - 2
            rows = np.flatnonzero(chosen)
            data, starts, _ = segments(_slices(self.data, self.values[rows] + 2, self.sizes[rows] - 2))
            special = np.flatnonzero(~_PLAIN[data])
            if len(special):
                chosen[rows[np.searchsorted(starts, special, "right") - 1]] = False
        elif kind == _INT:
            chosen &= self.sizes <= 10
            last = self._at(self.ends - 1) < 128
            first_ends = np.ones(len(chosen), np.bool_)
            for place in range(1, 9):
                first_ends &= (self._at(self.values + place) >= 128) | (place >= self.sizes - 1)
            chosen &= last & first_ends
        elif kind == _BOOL:
            chosen &= (self.sizes == 2) & (self._at(self.values + 1) < 2)
        else:
            chosen &= self.sizes == 9
            rows = np.flatnonzero(chosen)
            sizes = np.abs(self.doubles(rows))
            # Here Arrow and Python write the same digits, but for the ".0" of whole numbers.
            chosen[rows[~((sizes == 0) | ((sizes >= 1e-4) & (sizes < 1e10)))]] = False
        return chosen

    def doubles(self, rows: Positions) -> npt.NDArray[np.float64]:
        """The values of attributes that are doubles."""
        raw = self.data[(self.values[rows] + 1)[:, None] + np.arange(8)]
        return np.ascontiguousarray(raw).view(np.float64)[:, 0]


def _fronts(keys: pa.Array) -> tuple[pa.Array, Mask]:
    """For each distinct key the text before the value, and whether the key is valid UTF-8."""
    fronts, sane = [], np.ones(len(keys), np.bool_)
    for place, raw in enumerate(keys.to_pylist()):
        try:
            fronts.append(encode_basestring(raw.decode()) + ":")
        except UnicodeDecodeError:
            fronts.append("")
            sane[place] = False
    return pa.array(fronts, pa.string()), sane


def _slices(data: Bytes, starts: Positions, lengths: Positions) -> pa.Array:
    """Stretches of the data as a binary array."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    total = int(offsets[-1])
    taken = data[np.repeat(starts - offsets[:-1], lengths) + np.arange(total)]
    return pa.Array.from_buffers(pa.binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(taken)])


def _strings(layout: _Layout, chosen: Positions, fronts: pa.Array) -> pa.Array:
    first = layout.values[chosen] + 2
    texts = _slices(layout.data, first, layout.ends[chosen] - first).cast(pa.string())
    return pc.binary_join_element_wise(fronts, texts, ",", '"')


def _ints(layout: _Layout, chosen: Positions, fronts: pa.Array) -> pa.Array:
    first, size = layout.values[chosen] + 1, layout.sizes[chosen] - 1
    values = np.zeros(len(chosen), np.uint64)
    for place in range(int(size.max())):
        read = layout.data[first + place].astype(np.uint64) & np.uint64(0x7F)
        values |= np.where(place < size, read, np.uint64(0)) << np.uint64(7 * place)
    return pc.binary_join_element_wise(fronts, pa.array(values.astype(np.int64)).cast(pa.string()), ",", "")


def _bools(layout: _Layout, chosen: Positions, fronts: pa.Array) -> pa.Array:
    ends = pa.array(["false,", "true,"]).take(pa.array(layout.data[layout.values[chosen] + 1]))
    return pc.binary_join_element_wise(fronts, ends, "")


def _doubles(layout: _Layout, chosen: Positions, fronts: pa.Array) -> pa.Array:
    values = layout.doubles(chosen)
    ends = pa.array([",", ".0,"]).take(pa.array((values == np.floor(values)).astype(np.int8)))
    return pc.binary_join_element_wise(fronts, pa.array(values).cast(pa.string()), ends, "")
