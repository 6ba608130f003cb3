"""Ids that a file gives as text, as the 16 and 8 bytes that spans have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b

MAPPED = "ids of the file are not all hexadecimal: every id was replaced by a hash of it, the original is an attribute"

ORIGINAL_TRACE_ID = "original.trace_id"
ORIGINAL_SPAN_ID = "original.span_id"

_TRACE_ID = re.compile(r"[0-9a-fA-F]{1,32}")
_SPAN_ID = re.compile(r"[0-9a-fA-F]{1,16}")


class TextIds:
    """How the ids of one file are read: as hexadecimal digits, or all by a fixed hash if any of them is anything else.

    One rule for a whole file: in a file with the ids "A" to "I" the first six would else be read as other things.
    """

    def __init__(self, trace_ids: Iterable[str], span_ids: Iterable[str]) -> None:
        self.mapped = not (
            all(_TRACE_ID.fullmatch(text) for text in trace_ids if text)
            and all(_SPAN_ID.fullmatch(text) for text in span_ids if text)
        )

    def trace_id(self, text: str) -> bytes:
        """16 bytes; all zero where the text is empty."""
        if self.mapped and text.strip("0"):
            return blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        return bytes.fromhex(text.zfill(32))

    def span_id(self, text: str) -> int:
        """64 bits; 0 where the text is empty or all zero, which means that there is no such span."""
        if self.mapped and text.strip("0"):
            return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big") or 1
        return int(text, 16) if text.strip("0") else 0

    def original(self, trace_id: str, span_id: str) -> dict[str, str]:
        """Attributes that keep the texts where they were replaced."""
        return {ORIGINAL_TRACE_ID: trace_id, ORIGINAL_SPAN_ID: span_id} if self.mapped else {}
