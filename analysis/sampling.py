"""What upstream sampling kept: how many requests each one stands for, where its trace state says so.

Source: OpenTelemetry's "Tracestate: probability sampling". `ot=th:T` holds a threshold of up to 14 hexadecimal digits,
padded with zeros on the right to 56 bits; a trace is kept with probability 1 - T / 2^56.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.wording import number_text, share_text

_DIGITS = 14
_ALL: int = 16**_DIGITS
_ALIKE = 1.05


def adjusted_count(trace_state: str) -> float | None:
    """How many requests a kept one stands for; None where nothing valid is said."""
    for member in trace_state.split(","):
        vendor, _, value = member.strip().partition("=")
        if vendor != "ot":
            continue
        for part in value.split(";"):
            name, _, threshold = part.partition(":")
            if name == "th" and 1 <= len(threshold) <= _DIGITS and set(threshold) <= set("0123456789abcdef"):
                return _ALL / (_ALL - int(threshold.ljust(_DIGITS, "0"), 16))
    return None


def sampling_note(tail: Sequence[float | None], body: Sequence[float | None]) -> str:
    """What sampling means for an endpoint's numbers, from its requests' adjusted counts; empty where none says."""
    known = [one for one in (*tail, *body) if one is not None]
    if not known or max(known) <= 1:
        return ""
    partly = len(known) < len(tail) + len(body)
    if not partly and max(known) <= _ALIKE * min(known):
        return (
            f"A sampler kept one request in {number_text(round(known[0], 2))} (ot=th in the trace state): counts and "
            "rates are of those that were kept, percentiles and shares hold for all."
        )
    slow, normal = (_mean(cohort) for cohort in (tail, body))
    said = f" {share_text(len(known) / (len(tail) + len(body)))} of the requests say so." if partly else ""
    return (
        f"Requests were sampled unequally (ot=th in the trace state): a slow one stands for {number_text(slow)}, a "
        f"normal one for {number_text(normal)} in the mean.{said} Counts and percentiles are of what "
        "was kept, not of all requests; what slow requests do more of than normal ones holds."
    )


def _mean(counts: Sequence[float | None]) -> float:
    return round(sum(one or 1.0 for one in counts) / max(len(counts), 1), 2)
