"""Why bytes could not be read as OTLP."""

from __future__ import annotations


class DecodeError(ValueError):
    """The bytes are no OTLP request; the text says what is wrong and where."""
