"""Detector: remote calls awaited one after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from analysis.detector import AT_MOST, LOW, MEDIUM, Detector, Group, Occurrence, Verdict
from analysis.node import Node
from analysis.normalise import content_hash64
from analysis.reports import Fix
from analysis.retime import Edit
from analysis.semantics import OperationClass
from analysis.wording import duration_text

_REMOTE = (OperationClass.HTTP, OperationClass.RPC)


class SerialCalls(Detector):
    """A request awaits several different remote calls one after another that may be able to run together.

    ## What it finds
    At least `min_calls` calls of different operations under one span, each begun after the one before had ended, none
    of them failed, which together take more than `min_share` of the span.

    ## Why it matters
    The request takes the sum of the calls where it could take the longest of them, and every one's tail adds up.

    ## Example
        gateway  GET /dashboard       0..220
          users    GET /me           5..80
          orders   GET /recent      82..150
          offers   GET /offers     152..215

    ## How to fix
    If no call needs the answer of another, start them together in an `asyncio.TaskGroup` and await all of them. Keep
    the order where one does need it: spans show times, not data.

    ## Fixed
        gateway  GET /dashboard       0..85
          users    GET /me           5..80
          orders   GET /recent       5..73
          offers   GET /offers       6..69
    """

    @dataclass(frozen=True)
    class Settings:
        min_calls: int = field(
            default=3, metadata={"help": "Calls in sequence before it counts: of two, one often needs the other."}
        )
        min_share: float = field(
            default=0.6, metadata={"help": "Share of their parent's time that the calls take together."}
        )
        min_saving_ms: float = field(
            default=10.0, metadata={"help": "Sum minus longest, in the median request, below which it is not worth it."}
        )

    settings: Settings

    def occurrences(self, request: Node) -> Iterator[Occurrence]:
        for parent in request.own_nodes():
            calls = [child for child in parent.waited_for() if child.span.operation_class in _REMOTE]
            if len(calls) < self.settings.min_calls or not _in_sequence(calls):
                continue
            total_ns = sum(call.duration_ns for call in calls)
            if total_ns < self.settings.min_share * parent.duration_ns:
                continue
            saving_ns = total_ns - max(call.duration_ns for call in calls)
            first = calls[0].span.span_id
            yield Occurrence(
                operation=" + ".join(sorted(call.called for call in calls))[:400],
                offenders=tuple(calls),
                edit=Edit(starts_with={call.span.span_id: first for call in calls[1:]}),
                cost_ns=saving_ns,
                note=f"{len(calls)} calls in sequence, {duration_text(total_ns)}; the longest takes "
                f"{duration_text(total_ns - saving_ns)}",
                facts={"saving": saving_ns, "calls": len(calls), "order": _order_number(calls)},
            )

    def verdict(self, group: Group) -> Verdict | None:
        median_ns = median(group.facts("saving"))
        if median_ns < self.settings.min_saving_ms * 1e6:
            return None
        calls = group.found[0][1].offenders
        order_varies = len(set(group.facts("order"))) > 1
        names = ", ".join(f"“{call.called}”" for call in calls[:4])
        return Verdict(
            title=f"Await the {len(calls)} calls of {group.endpoints[0]} together, if they do not need each other",
            message=(
                f"{group.where} awaits {names} one after another. Together they would take as long "
                f"as the longest: {duration_text(median_ns)} less in the median request. Possible, not certain: spans "
                "do not show whether one call needs the answer of another."
            ),
            confidence=MEDIUM if order_varies else LOW,
            confidence_reason=(
                "They run in different orders in different requests, so they hardly depend on each other."
                if order_varies
                else "They never overlap, but spans cannot show whether one needs the answer of another."
            ),
            assumption="All of these calls begin when the first one does.",
            fix=_FIX,
            bound=AT_MOST,
        )


def _order_number(calls: list[Node]) -> int:
    """The same for calls in the same order; 52 bits, which a float keeps."""
    return content_hash64("\n".join(call.called for call in calls)) >> 11


def _in_sequence(calls: list[Node]) -> bool:
    if len({call.called for call in calls}) < len(calls) or any(call.span.failed for call in calls):
        return False
    return all(after.start_ns >= before.end_ns for before, after in pairwise(calls))


_FIX = Fix(
    title="Start independent calls together",
    steps=(
        "Check that no call uses the answer of an earlier one.",
        "Start them in an asyncio.TaskGroup: when one fails the others are cancelled and nothing runs on unseen.",
        "Give each its own timeout, and check that the callees and connection pools stand the calls at once.",
    ),
    before="""me = await client.get("/me")
recent = await client.get("/recent")
offers = await client.get("/offers")
""",
    after="""async with asyncio.TaskGroup() as group:
    me = group.create_task(client.get("/me"))
    recent = group.create_task(client.get("/recent"))
    offers = group.create_task(client.get("/offers"))
# me.result(), recent.result(), offers.result()
""",
    language="python",
)
