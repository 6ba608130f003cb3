"""What upstream sampling kept: how many requests each one stands for, where its trace state says so.

Source: OpenTelemetry's "Tracestate: probability sampling". `ot=th:T` holds a threshold of up to 14 hexadecimal digits,
padded with zeros on the right to 56 bits; a trace is kept with probability 1 - T / 2^56, and stands for the inverse of
that many (its adjusted count).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from analysis.span import Spans
from analysis.wording import number_text

_DIGITS = 14
_ALL: int = 16**_DIGITS
_ALIKE = 1.05
_THRESHOLD = rf"(?:^|,)\s*ot=(?:[^,;]*;)*th:([0-9a-f]{{1,{_DIGITS}}})(?:[;,\s]|$)"
"""In the words that Python and the store's engine (RE2) have in common."""
_SEEN = re.compile(_THRESHOLD)

ADJUSTED_COUNT = f"""
    case when trace_state = '' then 1.0 else coalesce(
        {_ALL}.0 / ({_ALL} - ('0x' || rpad(nullif(regexp_extract(trace_state, '{_THRESHOLD}', 1), ''), {_DIGITS}, '0'))
            ::ubigint),
        1.0
    ) end
"""
"""`adjusted_count` of a row's `trace_state` in SQL, 1 where nothing valid is said."""


def adjusted_sum(value: str) -> str:
    """The sum of whole numbers in SQL, each as often as its row's `adjusted_count` says, 1e37 at most: 128 bits."""
    return f"least(sum({value} * adjusted_count), 1e37)::hugeint"


def adjusted_count(trace_state: str) -> float | None:
    """How many requests a kept one stands for; None where nothing valid is said."""
    seen = _SEEN.search(trace_state)
    return _ALL / (_ALL - int(seen[1].ljust(_DIGITS, "0"), 16)) if seen else None


def is_sampled(spans: Spans) -> bool:
    """Whether a request of the window says that it stands for more than itself."""
    return bool(
        spans.rows(
            "select 1 from requests where trace_state <> '' and regexp_extract(trace_state, $threshold, 1) not in "
            "('', '0') order by 1 limit 1",
            threshold=_THRESHOLD,
        )
    )


def sampling_note(tail: Sequence[float], body: Sequence[float], adjusted: float) -> str:
    """What sampling means for an endpoint's numbers, from its requests' adjusted counts and their sum over all.

    Empty where each request stands for itself.
    """
    counts = (*tail, *body)
    if not counts or max(counts) <= 1:
        return ""
    stood = f"Counts are of the requests that were kept; they stand for about {number_text(round(adjusted))}."
    if max(counts) <= _ALIKE * min(counts):
        return f"A sampler kept one request in {number_text(round(counts[0], 2))} (ot=th in the trace state). {stood}"
    slow, normal = (number_text(round(sum(cohort) / max(len(cohort), 1), 2)) for cohort in (tail, body))
    return (
        f"Requests were sampled unequally (ot=th in the trace state): a slow one stands for {slow}, a normal one for "
        f"{normal} in the mean. Percentiles, means and shares count each as often as it stands for, and intervals are "
        f"as wide as that makes them. {stood}"
    )
