"""Detector: failed calls repeated at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from analysis.attempt_groups import AttemptGroup, attempt_groups
from analysis.detector import AT_MOST, HIGH, LOW, MEDIUM, Detector, Group, Occurrence, Verdict
from analysis.node import Node
from analysis.reports import Fix
from analysis.retime import Edit
from analysis.wording import duration_text, share_text


class RetryWithoutBackoff(Detector):
    """A caller repeats failing calls at once, without letting time pass between the attempts.

    ## What it finds
    Attempts of one call, side by side under one span or hidden under one client span, where the median pause before the
    next attempt is below `max_backoff_ms`.

    ## Why it matters
    What made the first attempt fail is seldom gone a millisecond later. Immediate retries multiply the load on a callee
    that is failing already, and can keep it down after the cause is gone (metastable failure).

    ## Example
        orders  POST /orders              0..95
          payments  POST /charge         5..30 error
          payments  POST /charge        30..55 error
          payments  POST /charge        56..90

    ## How to fix
    Cap the attempts, wait exponentially longer with full jitter between them, retry only what can succeed, and keep
    retries below a tenth of all calls (a retry budget).

    ## Fixed
        orders  POST /orders              0..400
          payments  POST /charge         5..30 error
          payments  POST /charge       110..135 error
          payments  POST /charge       355..390
    """

    @dataclass(frozen=True)
    class Settings:
        max_backoff_ms: float = field(
            default=20.0,
            metadata={
                "help": "Median pause below which there is no backoff: shorter than one round trip and a sleep(0)."
            },
        )
        min_calls: int = field(default=3, metadata={"help": "Retried calls in the sample before it counts."})

    settings: Settings

    def occurrences(self, request: Node) -> Iterator[Occurrence]:
        for parent in request.own_nodes():
            for group in attempt_groups(parent):
                yield _occurrence(parent, group)

    def verdict(self, group: Group) -> Verdict | None:
        pauses = group.facts("pause")
        retried = len(group.found)
        median_ns = median(pauses)
        if retried < self.settings.min_calls or median_ns > self.settings.max_backoff_ms * 1e6:
            return None
        attempts = sum(int(count) for count in group.facts("attempts"))
        exhausted = sum(int(flag) for flag in group.facts("exhausted"))
        wasted_ns = median(occurrence.cost_ns for _, occurrence in group.found)
        callee = group.operation
        return Verdict(
            title=f"Stop repeating failed calls to {callee} at once",
            message=(
                f"{group.where} repeats failed calls to {callee} after "
                f"{duration_text(median_ns)} in the median: {attempts} attempts for {retried} sampled calls "
                f"({share_text(group.share)} of its requests), of which {exhausted} failed in the end. Failed attempts "
                f"take {duration_text(wasted_ns)} of such a request."
            ),
            confidence=HIGH if retried >= 10 else MEDIUM if retried >= 5 else LOW,
            confidence_reason=f"Measured on {retried} retried calls; the longest pause: {duration_text(pauses[-1])}.",
            assumption=(
                "No first attempt fails. Backoff alone adds its pauses to the requests that are retried, and takes "
                "load off the callee so that fewer are."
            ),
            fix=_FIX,
            bound=AT_MOST,
        )


def _occurrence(parent: Node, group: AttemptGroup) -> Occurrence:
    removed = group.attempts[:-1]
    pauses = [end - start for start, end in group.gaps]
    return Occurrence(
        operation=_called(group),
        offenders=group.attempts,
        edit=Edit(
            durations_ns={attempt.span.span_id: 0 for attempt in removed},
            no_gap_before=frozenset(attempt.span.span_id for attempt in group.attempts[1:]),
        ),
        cost_ns=sum(attempt.duration_ns for attempt in removed) + sum(pauses),
        note=f"{len(group.attempts)} attempts, pauses {', '.join(duration_text(pause) for pause in pauses[:5])}"
        + (", all failed" if group.exhausted else ""),
        facts={
            "pause": median(pauses),
            "attempts": len(group.attempts),
            "exhausted": float(group.exhausted),
        },
    )


def _called(group: AttemptGroup) -> str:
    if group.hidden:
        return f"{group.attempts[0].span.service} {group.attempts[0].span.endpoint}"
    answered = next((attempt for attempt in group.attempts if any(c.is_entry for c in attempt.children)), None)
    return (answered or group.attempts[0]).called


_FIX = Fix(
    title="Remove what makes the calls fail; until then wait longer before each attempt, with jitter",
    steps=(
        "Find out why the calls fail: the time goes into the failed attempts, and the retries only hide it.",
        "Cap the attempts at two or three, and retry only what can succeed (connection errors, 429, 502, 503, 504).",
        "Wait exponentially longer with full jitter, and honour Retry-After where the callee sends it.",
        "Bound the whole call by one timeout that is shorter than the caller's own.",
    ),
    before="""@retry(stop=stop_after_attempt(3))  # no wait: three calls within milliseconds
async def charge(client: httpx.AsyncClient, order: dict) -> httpx.Response:
    response = await client.post("/charge", json=order)
    response.raise_for_status()
    return response
""",
    after="""@retry(
    stop=stop_after_attempt(3),
    wait=wait_random_exponential(multiplier=0.1, max=2),
    retry=retry_if_exception_type((httpx.TransportError, Unavailable)),
)
async def charge(client: httpx.AsyncClient, order: dict) -> httpx.Response:
    response = await client.post("/charge", json=order, timeout=2.0)
    if response.status_code in {429, 502, 503, 504}:
        raise Unavailable(response)
    return response
""",
    language="python",
)
