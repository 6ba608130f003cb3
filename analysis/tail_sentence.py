"""The sentence that a person would write about an endpoint's tail, built from its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from analysis.cohorts import THE_REST
from analysis.comparison import Comparison
from analysis.contrast_facts import CALLS
from analysis.endpoint_reports import Contrasts, LedgerRow, Region
from analysis.ledger import Category
from analysis.quantiles import quantile
from analysis.reports import EndpointRow
from analysis.sample import Sample, mean_duration_ns
from analysis.wording import count_text, duration_text, interval_text, listed_text, share_text

MIN_SHARE = 0.1
MAX_CAUSES = 3
MIN_COHORT = 3
MIN_DIFFERENCE_NS = 2_000_000
MIN_DIFFERENCE_SHARE = 0.05
"""A difference below 2 ms or 5 % of the typical request is not worth a sentence."""
LONG_TAIL = 3.0
"""A tail that begins below three times the typical request is explained only by places that stand out."""
FAR_BY_SCATTER, MIN_FAR, MAX_P = 0.35, 0.5, 0.01
"""A place stands out where it takes longer in half of the slow requests than it does by its own scatter. Of the slowest
hundredth of a place's own log-normal times 35 % do; half of few requests is chance."""
MIN_EXPLAINED = 0.5
"""What less than half of the slow requests have is left to the table."""

_PHRASES = {
    Category.OWN_CODE: "in the code of {}",
    Category.DATABASE: "in the database ({})",
    Category.CACHE: "in the cache ({})",
    Category.REMOTE_CALL: "in a call that is not instrumented on the other side ({})",
    Category.MESSAGING: "publishing messages ({})",
    Category.EDGE_GAP: "between {}, outside both services' spans",
    Category.QUEUE: "waiting in a queue ({})",
    Category.POOL: "waiting for a connection ({})",
    Category.LOCK: "waiting for a lock ({})",
    Category.BLOCKED_LOOP: "waiting for a blocked event loop ({})",
    Category.FAILED_ATTEMPTS: "in attempts that failed ({})",
    Category.BACKOFF: "backing off between attempts ({})",
    Category.UNACCOUNTED: "in time that no span accounts for ({})",
}


def tail_sentence(row: EndpointRow, sample: Sample, compared: Comparison) -> str:
    """What the slow requests do that the normal ones do not; says so where the data cannot tell."""
    tail, body, found = sample.tail, sample.body, compared.contrasts
    if len(tail) < MIN_COHORT or len(body) < MIN_COHORT:
        slowest = max((request.root.span.duration_ns for request in sample.requests), default=0)
        return (
            f"Only {count_text(row.count)} request{'s' if row.count != 1 else ''} in this window, the slowest "
            f"{duration_text(slowest)}: too few to tell what slow requests have in common."
        )
    opening = _opening(row, sample.tail_quantile, sample.tail_from_ns)
    body_mean = mean_duration_ns(body)
    difference = mean_duration_ns(tail) - body_mean
    typical = quantile(sorted(request.duration_ns for request in body), 0.5).value_ns or 0
    if difference < max(MIN_DIFFERENCE_NS, MIN_DIFFERENCE_SHARE * body_mean):
        return (
            f"{opening} That is close to the typical request ({duration_text(typical)}): there is no tail to explain."
        )
    causes = standing_out(compared.ledger, difference)
    if not causes:
        return (
            f"{opening} Against the typical request ({duration_text(typical)}) they take "
            f"{duration_text(difference)} more, and no single cause stands out from chance."
            f"{common_text(found, 'normal')}"
        )
    if sample.tail_from_ns < LONG_TAIL * typical and not any(_far(cause, len(tail)) for cause in causes):
        return (
            f"{opening} That is {sample.tail_from_ns / typical:.1f} times the typical request "
            f"({duration_text(typical)}): an ordinary spread, in which no place stands out from how its time varies "
            f"anyway.{common_text(found, 'normal')}"
        )
    spent = f"Against the typical request ({duration_text(typical)}) they spend {causes_text(causes, difference)}."
    return f"{opening} {spent}{common_text(found, 'normal')}"


def _far(cause: LedgerRow, slow: int) -> bool:
    """Whether a place takes longer than by its scatter in more of the slow requests than chance explains."""
    least = round(cause.far_share * slow)
    by_chance = sum(
        comb(slow, many) * FAR_BY_SCATTER**many * (1 - FAR_BY_SCATTER) ** (slow - many)
        for many in range(least, slow + 1)
    )
    return cause.far_share >= MIN_FAR and by_chance <= MAX_P


def kept_sentence(region: Region | None, compared: Comparison) -> str:
    """What slow requests do of those that a sampler kept by how long they took: from the region on, or the slowest."""
    opening = "No percentiles: traces look sampled by how long they took."
    if min(compared.sampled_tail, compared.sampled_body) < MIN_COHORT:
        return f"{opening} Too few were kept to tell what slow requests have in common."
    difference = sum(row.difference_ns for row in compared.category_rows)
    slow = f"those of {duration_text(region.low_ns)} and more" if region else "the slowest"
    other = "the shorter" if region else "the typical"
    common = common_text(compared.contrasts, "other")
    causes = standing_out(compared.ledger, difference)
    if not causes:
        return (
            f"{opening} Of the kept requests {slow} take {duration_text(difference)} more than {other} ones, and no "
            f"single cause stands out from chance.{common}"
        )
    spent = causes_text(causes, difference)
    return f"{opening} Of the kept requests {slow} spend, against {other} ones, {spent}.{common}"


def standing_out(rows: Sequence[LedgerRow], difference: float) -> list[LedgerRow]:
    """Places that make at least a tenth of a positive difference and more than chance would, at most 3."""
    return [
        cause
        for cause in rows
        if cause.difference_ns >= MIN_SHARE * difference and cause.difference_low_ns > 0 and cause.label != THE_REST
    ][:MAX_CAUSES]


def causes_text(causes: Sequence[LedgerRow], difference: float) -> str:
    """`1.10 s more waiting for a connection (orders: pool) (62 % of the difference) and 400 ms more …`."""
    return listed_text([_cause(cause, difference, first=position == 0) for position, cause in enumerate(causes)])


def common_text(found: Contrasts, others: str) -> str:
    """What most of them have in common beyond what the others lead to expect; else empty."""
    if not found.values or found.values[0].explained_share < MIN_EXPLAINED:
        return ""
    first = found.values[0]
    if not first.value:
        what = f"lack {first.key} in {first.service}"
    elif first.key == CALLS:
        what = f"call {first.value} from {first.service}"
    else:
        what = f"have {first.key} = {first.value} in {first.service}"
    return (
        f" {share_text(first.tail_share)} of them {what}, against {share_text(first.body_share)} of the {others} ones."
    )


def queued_sentence(wait: tuple[int, int] | None) -> str:
    """How long messages waited before this endpoint took them, from (median, p95) nanoseconds; else empty."""
    if wait is None or wait[1] < MIN_DIFFERENCE_NS:
        return ""
    median, p95 = (duration_text(part) for part in wait)
    return (
        f"Before any of this, the message waits in its queue: {median} in the median, {p95} at p95. That wait is not "
        "part of these durations."
    )


def _opening(row: EndpointRow, tail_quantile: float, tail_from_ns: int) -> str:
    shown = row.p99 if tail_quantile == 0.99 else row.p95
    interval = (
        f" ({interval_text(shown.low_ns, shown.high_ns)})"
        if shown.low_ns is not None and shown.high_ns is not None
        else ""
    )
    return f"{round(100 * (1 - tail_quantile))} % of requests take longer than {duration_text(tail_from_ns)}{interval}."


def _cause(cause: LedgerRow, difference: float, *, first: bool) -> str:
    words = spent_words(cause.category, cause.label)
    share = share_text(cause.difference_ns / difference)
    return f"{duration_text(cause.difference_ns)} more {words} ({share}{' of the difference' if first else ''})"


def spent_words(category: Category, label: str) -> str:
    """What to say after a time: `waiting for a connection (orders: pool of postgresql)`."""
    whose = label.replace(" → ", " and ") if category == Category.EDGE_GAP else label
    return _PHRASES[category].format(whose)
