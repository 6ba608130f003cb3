"""Why the tail of one endpoint is slow: its slow requests held against its typical ones."""

from __future__ import annotations

from dataclasses import replace

from analysis.broker_waits import wait_before
from analysis.change import latency_changes
from analysis.cohorts import Accounted, account, category_rows, label_rows
from analysis.contrast import contrasts
from analysis.contrast_facts import facts_of
from analysis.endpoint_reports import EndpointReport
from analysis.errors import NotFound
from analysis.exemplars import exemplars
from analysis.latency import endpoint_row, heat_map, latency_series
from analysis.ledger import TimeKind
from analysis.path_profile import path_profile
from analysis.reports import EndpointRow
from analysis.sample import Sample, equally_likely, sample_endpoint
from analysis.sampling import sampling_note
from analysis.semantics import OperationClass
from analysis.span import Spans
from analysis.tail_sentence import queued_sentence, tail_sentence
from analysis.wording import count_text, share_text

MIN_TAIL_COHORT = 40
"""Below this many requests the slowest 5 % are one or two, and have nothing in common."""
MIN_TAIL_TRUST = 368
"""No two-sided 95 % interval for p99 exists below this many requests (binomial, see analysis.quantiles)."""

MAX_COMPARED = 80
"""Requests of each cohort whose attributes are read: of 320 traces over all of 10 million spans that took 0.5 s."""


def endpoint_report(spans: Spans, service: str, endpoint: str) -> EndpointReport:
    """The explanation of one endpoint's tail. Raises NotFound where it has no request in the window."""
    found = endpoint_row(spans, service, endpoint)
    sample = sample_endpoint(spans, service, endpoint)
    if found is None or sample is None:
        raise NotFound(f"no request to {service} {endpoint} in this window")
    accounted = account(sample)
    row = with_shares(found, accounted)
    labels = label_rows(accounted)
    series = latency_series(spans, service, endpoint)
    # In the order of the draw, which is by hash: as good as any.
    tail, body = (equally_likely(cohort)[:MAX_COMPARED] for cohort in (sample.tail, sample.body))
    facts = facts_of(spans, [*tail, *body])
    common = contrasts(facts[: len(tail)], facts[len(tail) :])
    return EndpointReport(
        row=row,
        sentence=tail_sentence(row, accounted, labels, common),
        before=queued_sentence(_wait_before(spans, sample)),
        tail_quantile=sample.tail_quantile,
        tail_from_ns=sample.tail_from_ns,
        body_low_ns=sample.body_low_ns,
        body_high_ns=sample.body_high_ns,
        sampled_tail=len(sample.tail),
        sampled_body=len(sample.body),
        series=series,
        changes=latency_changes(spans, series, accounted),
        heat_map=heat_map(spans, service, endpoint),
        ledger=labels,
        category_rows=category_rows(accounted),
        contrasts=common,
        path=path_profile(sample.tail, sample.body),
        exemplars=exemplars(spans, row),
        trust=_trust(accounted, row),
    )


def _wait_before(spans: Spans, sample: Sample) -> tuple[int, int] | None:
    """Of all messages, not only the sampled ones: the page of queues shows the same numbers."""
    if all(request.root.span.operation_class != OperationClass.CONSUMER for request in sample.requests):
        return None
    return wait_before(spans, sample.service, sample.endpoint)


def with_shares(row: EndpointRow, accounted: Accounted[Sample]) -> EndpointRow:
    """The row with its shares of working, waiting and wasted time filled in from the sample."""
    shares = accounted.kind_shares()
    return replace(
        row,
        work_share=shares[TimeKind.WORK],
        wait_share=shares[TimeKind.WAIT],
        waste_share=shares[TimeKind.WASTE],
    )


def _trust(accounted: Accounted[Sample], row: EndpointRow) -> tuple[str, ...]:
    sample = accounted.sample
    sampled = sampling_note(
        [request.adjusted_count for request in sample.tail],
        [request.adjusted_count for request in sample.body],
        row.adjusted_count,
    )
    notes = [
        f"{count_text(len(sample.requests))} of {count_text(sample.total)} requests were looked at span by span, "
        f"{count_text(len(sample.tail))} of them in the tail and {count_text(len(sample.body))} in the body."
    ]
    if sample.total < MIN_TAIL_TRUST:
        shown = "the tail shown here is the slowest 5 %" if sample.total >= MIN_TAIL_COHORT else "no tail is explained"
        notes.append(
            f"{count_text(sample.total)} requests are too few for a p99 with an interval (it takes {MIN_TAIL_TRUST}): "
            f"{shown}."
        )
    bare = sum(1 for request in sample.requests if not request.root.waited_for())
    if sample.requests and bare / len(sample.requests) > 0.2:
        notes.append(
            f"{share_text(bare / len(sample.requests))} of the requests have no spans below them, so that all of their "
            "time counts as own code: instrument the libraries that this service calls."
        )
    moved = sum(1 for request in sample.requests if any(n.startswith("moved by") for n in request.root.notes))
    if moved:
        notes.append(f"Clocks of hosts disagree; times of {count_text(moved)} of these requests were corrected.")
    return tuple([*notes, sampled] if sampled else notes)
