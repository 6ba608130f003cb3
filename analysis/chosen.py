"""What chosen requests of an endpoint do that its other requests do not: the same comparison as tail against body."""

from __future__ import annotations

from analysis.cohorts import account
from analysis.comparison import comparison
from analysis.endpoint_reports import ChosenReport, Contrasts, LedgerRow, Region
from analysis.exemplars import exemplars_in
from analysis.region import ChosenSample, sample_region
from analysis.sample import mean_duration_ns
from analysis.span import Spans
from analysis.tail_sentence import (
    MAX_CAUSES,
    MIN_COHORT,
    MIN_DIFFERENCE_NS,
    MIN_DIFFERENCE_SHARE,
    causes_text,
    common_text,
    standing_out,
)
from analysis.wording import count_text, duration_text

FEW = 20
"""A bootstrap interval of a mean over fewer requests is too narrow (by a tenth at 20, by a third at 5)."""


def chosen_report(spans: Spans, service: str, endpoint: str, region: Region) -> ChosenReport:
    """The requests in a region against all others of the endpoint; raises NotFound where the region holds none."""
    sample = sample_region(spans, service, endpoint, region)
    found = comparison(spans, account(sample))
    return ChosenReport(
        service=service,
        endpoint=endpoint,
        region=region,
        chosen=sample.chosen,
        rest=sample.rest,
        sentence=_sentence(sample, found.ledger, found.contrasts),
        sampled_tail=found.sampled_tail,
        sampled_body=found.sampled_body,
        ledger=found.ledger,
        category_rows=found.category_rows,
        contrasts=found.contrasts,
        path=found.path,
        exemplars=exemplars_in(spans, service, endpoint, region, sample.chosen),
        trust=_trust(sample),
    )


def _sentence(sample: ChosenSample, rows: tuple[LedgerRow, ...], found: Contrasts) -> str:
    chosen, rest = sample.chosen, sample.rest
    many = chosen.count != 1
    opening = (
        f"{count_text(chosen.count)} request{'s' if many else ''} chosen, {duration_text(chosen.p50_ns)}"
        f"{' in the median' if many else ''}"
    )
    if not rest.count:
        return f"{opening}: all that this window has, so that there is nothing to compare with."
    opening += f"; the other {count_text(rest.count)} take {duration_text(rest.p50_ns)}."
    tail, body = sample.tail, sample.body
    if len(tail) < MIN_COHORT or len(body) < MIN_COHORT:
        return f"{opening} Too few to tell what they have in common."
    rest_mean = mean_duration_ns(body)
    difference = mean_duration_ns(tail) - rest_mean
    if abs(difference) < max(MIN_DIFFERENCE_NS, MIN_DIFFERENCE_SHARE * rest_mean):
        return f"{opening} In the mean both take as long.{common_text(found, 'other')}"
    if difference < 0:
        shorter = [row for row in reversed(rows) if row.difference_high_ns < 0][:MAX_CAUSES]
        where = f", most of it in {shorter[0].label}" if shorter and shorter[0].label else ""
        return f"{opening} In the mean they take {duration_text(-difference)} less{where}.{common_text(found, 'other')}"
    causes = standing_out(rows, difference)
    if not causes:
        return (
            f"{opening} In the mean they take {duration_text(difference)} more, and no single cause stands out from "
            f"chance.{common_text(found, 'other')}"
        )
    return f"{opening} In the mean they spend {causes_text(causes, difference)}.{common_text(found, 'other')}"


def _trust(sample: ChosenSample) -> tuple[str, ...]:
    notes = [
        f"Looked at span by span: {count_text(len(sample.tail))} of {count_text(sample.chosen.count)} chosen requests "
        f"and {count_text(len(sample.body))} of the {count_text(sample.rest.count)} others, drawn by chance."
    ]
    few = min(len(sample.tail), len(sample.body))
    if few < FEW:
        notes.append(f"With as few as {count_text(few)} on one side the intervals are narrower than they should be.")
    return tuple(notes)
