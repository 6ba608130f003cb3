"""Why the tail of one endpoint is slow: its slow requests held against its typical ones."""

from __future__ import annotations

from dataclasses import replace

from analysis.broker_waits import wait_before
from analysis.change import latency_changes
from analysis.cohorts import Accounted, account
from analysis.comparison import comparison
from analysis.endpoint_reports import EndpointReport
from analysis.errors import NotFound
from analysis.exemplars import exemplars, exemplars_in
from analysis.latency import endpoint_row, heat_map, latency_series
from analysis.ledger import TimeKind
from analysis.region import ChosenSample, sample_region
from analysis.reports import EndpointRow
from analysis.sample import Sample, sample_endpoint
from analysis.sampling import sampling_note
from analysis.semantics import OperationClass
from analysis.span import Spans
from analysis.tail_sampling import (
    kept_region,
    sampled_by_duration,
    tail_sampling_text,
    withheld,
    without_quantiles,
)
from analysis.tail_sentence import kept_sentence, queued_sentence, tail_sentence
from analysis.wording import count_text, duration_text, share_text

MIN_TAIL_COHORT = 40
"""Below this many requests the slowest 5 % are one or two, and have nothing in common."""
MIN_TAIL_TRUST = 368
"""No two-sided 95 % interval for p99 exists below this many requests (binomial, see analysis.quantiles)."""


def endpoint_report(spans: Spans, service: str, endpoint: str) -> EndpointReport:
    """The explanation of one endpoint's tail. Raises NotFound where it has no request in the window.

    Where traces look sampled by how long they took it has no percentiles, and what is compared are kept requests.
    """
    found = endpoint_row(spans, service, endpoint)
    sample = sample_endpoint(spans, service, endpoint)
    if found is None or sample is None:
        raise NotFound(f"no request to {service} {endpoint} in this window")
    accounted = account(sample)
    row = with_shares(found, accounted)
    series = latency_series(spans, service, endpoint)
    sampling = sampled_by_duration(spans, sample)
    if sampling is not None:
        row, series = withheld(row, sampling), without_quantiles(series)
    region = kept_region(sampling, service, endpoint)
    if region is None:
        compared = comparison(spans, accounted)
        examples, looked_at = exemplars(spans, row), _looked_at(sample)
    else:
        chosen = sample_region(spans, service, endpoint, region)
        compared = comparison(spans, account(chosen))
        examples = exemplars_in(spans, service, endpoint, region, chosen.chosen)
        looked_at = _looked_at_of_kept(chosen)
    return EndpointReport(
        row=row,
        withheld=tail_sampling_text(sampling) if sampling else "",
        sentence=kept_sentence(region, compared) if sampling else tail_sentence(row, sample, compared),
        before=queued_sentence(_wait_before(spans, sample)),
        tail_quantile=sample.tail_quantile,
        tail_from_ns=region.low_ns if region else sample.tail_from_ns,
        body_low_ns=0 if region else sample.body_low_ns,
        body_high_ns=region.low_ns if region else sample.body_high_ns,
        sampled_tail=compared.sampled_tail,
        sampled_body=compared.sampled_body,
        series=series,
        changes=() if sampling else latency_changes(spans, series, accounted),
        heat_map=heat_map(spans, service, endpoint),
        ledger=compared.ledger,
        category_rows=compared.category_rows,
        contrasts=compared.contrasts,
        path=compared.path,
        exemplars=examples,
        trust=_trust(looked_at, accounted, row),
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


def _looked_at(sample: Sample) -> str:
    return (
        f"{count_text(len(sample.requests))} of {count_text(sample.total)} requests were looked at span by span, "
        f"{count_text(len(sample.tail))} of them in the tail and {count_text(len(sample.body))} in the body."
    )


def _looked_at_of_kept(sample: ChosenSample) -> str:
    return (
        f"{count_text(len(sample.tail))} of {count_text(sample.chosen.count)} kept requests of "
        f"{duration_text(sample.region.low_ns)} and more and {count_text(len(sample.body))} of "
        f"{count_text(sample.rest.count)} shorter ones were looked at span by span."
    )


def _trust(looked_at: str, accounted: Accounted[Sample], row: EndpointRow) -> tuple[str, ...]:
    """How far to trust it, of all requests that were looked at."""
    sample = accounted.sample
    sampled = sampling_note(
        [request.adjusted_count for request in sample.tail],
        [request.adjusted_count for request in sample.body],
        row.adjusted_count,
    )
    notes = [looked_at]
    if not row.tail_sampling and sample.total < MIN_TAIL_TRUST:
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
