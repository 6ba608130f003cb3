"""Times and scalars as trace files spell them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fractions import Fraction

_WHOLE = re.compile(r"-?\d{1,20}")
_DURATION = re.compile(r"(-?\d{1,20}(?:\.\d{1,12})?)(ns|us|µs|ms|s)")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,12}))?([Zz]|[+-]\d\d:\d\d)")
_UNITS_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


NESTED_TOO_DEEP = "bad value: nested too deep"

_MAX_MICROSECONDS = 2**63 // 1_000


class BadValue(ValueError):
    """A span cannot be read; the text says which field and why."""


def time_ns(value: object, field: str) -> int | None:
    """Microseconds since 1970 as number or text, or an RFC 3339 time, in nanoseconds; None where absent."""
    if isinstance(value, str) and (match := _RFC3339.fullmatch(value)):
        day, clock, fraction, zone = match.groups()
        try:
            whole = datetime.fromisoformat(f"{day}T{clock}{zone.upper().replace('Z', '+00:00')}")
        except ValueError as error:
            raise BadValue(f"bad value: {field} is no time") from error
        seconds = (whole - datetime(1970, 1, 1, tzinfo=UTC)) // _ONE_SECOND
        return seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0")[:9])
    return microseconds(value, field)


def duration_ns(value: object, field: str) -> int | None:
    """Microseconds as number or text, or a number with its unit (`22938000ns`), in nanoseconds; None where absent."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return round(Fraction(match[1]) * _UNITS_NS[match[2]])
    return microseconds(value, field)


def microseconds(value: object, field: str) -> int | None:
    """Microseconds as number or text in nanoseconds, exact; None where absent."""
    if value is None:
        return None
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (value != value):
        raise BadValue(f"bad value: {field} is not a number")
    if abs(value) > _MAX_MICROSECONDS:
        raise BadValue(f"bad value: {field} is out of range")
    return value * 1_000 if isinstance(value, int) else round(Fraction(value) * 1_000)


def text(value: object) -> str:
    """A text, a number as its digits, else empty."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


_ONE_SECOND = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
