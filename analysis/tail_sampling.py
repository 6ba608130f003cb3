"""Whether traces were sampled by how long they took, where no trace state says so.

A sampler that keeps every trace of half a second and more and one in twenty of the others makes p99 of what is kept
meaningless. It leaves a jump in the density of durations (`analysis.density_step`), and requests just below the jump
spend their time as those just above it do: at the lower end of a mode, such as a fallback after a timeout, they do not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.accounting import request_ledger
from analysis.density_step import DensityStep
from analysis.draw import Stratum, draw_strata
from analysis.endpoint_reports import LatencySeries, Region
from analysis.latency import endpoint_density_step
from analysis.ledger import Category
from analysis.node import Node
from analysis.quantiles import Quantile
from analysis.reports import EndpointRow, TailSampling
from analysis.sample import Sample, linked_traces, request_root
from analysis.span import Spans
from analysis.wording import count_text, duration_text

NEAR = 1.3
"""Requests of up to 1.3 times the threshold are held against those of down to the threshold / 1.3."""
LOOKED_AT = 40
"""On each side."""
MIN_ALIKE = 0.5
"""What takes most of the time above must take at least half of that share below."""
MIN_SAME_TRACES = 0.5
"""Share of an endpoint's requests in the traces of another from which what is true of that one is true of it."""


def judged(spans: Spans, rows: Sequence[EndpointRow]) -> list[EndpointRow]:
    """The rows, without percentiles where they would be those of a sampler; all endpoints of the window."""
    found = {
        (row.service, row.endpoint): sampling
        for row in rows
        if (sampling := _judged(spans, row.service, row.endpoint, row.density_step)) is not None
    }
    if not found:
        return list(rows)
    below = _in_the_same_traces(spans, found)
    return [withheld(row, sampling) if (sampling := below.get((row.service, row.endpoint))) else row for row in rows]


def sampled_by_duration(spans: Spans, sample: Sample) -> TailSampling | None:
    """What the endpoint's own durations tell, else those of the endpoint that most of its traces begin with."""
    own = _judged(spans, sample.service, sample.endpoint, sample.density_step)
    first = _first_endpoint(sample)
    if own is not None or first is None:
        return own
    return _judged(spans, *first, endpoint_density_step(spans, *first))


def sampled_endpoints(spans: Spans, samples: Sequence[Sample]) -> set[tuple[str, str]]:
    """Which of some endpoints are sampled by their durations, or those of an endpoint among them that begins traces."""
    found = {
        (sample.service, sample.endpoint)
        for sample in samples
        if _judged(spans, sample.service, sample.endpoint, sample.density_step) is not None
    }
    if not found:
        return found
    return found | {(sample.service, sample.endpoint) for sample in samples if _first_endpoint(sample) in found}


def _first_endpoint(sample: Sample) -> tuple[str, str] | None:
    """The other endpoint that most traces of a sample begin with, None where it is none."""
    begins = Counter(
        (first.span.service, first.span.endpoint)
        for request in sample.requests
        if (first := _first_entry(request.root)) is not request.root
    )
    return next((key for key, count in begins.most_common(1) if count >= MIN_SAME_TRACES * len(sample.requests)), None)


def _first_entry(node: Node) -> Node:
    first, above = node, node.parent
    while above is not None:
        if above.is_entry:
            first = above
        above = above.parent
    return first


def _judged(spans: Spans, service: str, endpoint: str, step: DensityStep | None) -> TailSampling | None:
    if step is None or not _alike(spans, service, endpoint, step.threshold_ns):
        return None
    return TailSampling(service, endpoint, step)


def kept_region(sampling: TailSampling | None, service: str, endpoint: str) -> Region | None:
    """Which requests were all kept; None where nothing was sampled, or by the durations of another endpoint."""
    if sampling is None or (sampling.service, sampling.endpoint) != (service, endpoint):
        return None
    return Region(low_ns=sampling.step.threshold_ns)


def withheld(row: EndpointRow, sampling: TailSampling) -> EndpointRow:
    """The row without what a sampler made of its percentiles."""
    p50, p95, p99, p999 = (
        Quantile(one.q, row.count, None, None, None) for one in (row.p50, row.p95, row.p99, row.p999)
    )
    no_line = (0,) * len(row.sparkline)
    return replace(row, p50=p50, p95=p95, p99=p99, p999=p999, sparkline=no_line, tail_sampling=sampling)


def without_quantiles(series: LatencySeries) -> LatencySeries:
    nothing = (None,) * len(series.start_ns)
    return replace(series, p50_ns=nothing, p95_ns=nothing, p99_ns=nothing)


def tail_sampling_text(sampling: TailSampling) -> str:
    """Why there are no percentiles, and what brings them back."""
    step = sampling.step
    return (
        f"Percentiles are withheld, because traces look sampled by how long they took: {count_text(step.above)} "
        f"requests of {sampling.service} {sampling.endpoint} took {duration_text(step.threshold_ns)} to 5 % more, only "
        f"{count_text(step.below)} up to 5 % less. A sampler that keeps all slow traces and few others leaves that. "
        "Send all traces, or let the sampler write its probability into the trace state (ot=th)."
    )


def _alike(spans: Spans, service: str, endpoint: str, threshold_ns: int) -> bool:
    """Whether requests just below a threshold spend their time as those just above it do."""
    spans.keep(
        "strata",
        """
        select 0 as place, trace_id, span_id, 1.0 as adjusted_count,
               case when duration_ns >= $threshold_ns then 1 else 0 end as stratum
        from requests
        where service = $service and endpoint = $endpoint and request_class in ('request', 'candidate')
          and duration_ns >= $low_ns and duration_ns < $high_ns
        """,
        service=service,
        endpoint=endpoint,
        threshold_ns=threshold_ns,
        low_ns=round(threshold_ns / NEAR),
        high_ns=round(threshold_ns * NEAR),
    )
    sizes = spans.rows("select stratum, count(*) as n from strata group by stratum order by stratum")
    drawn = draw_strata(spans, [Stratum(0, int(number), int(members), LOOKED_AT) for number, members in sizes])
    traces = linked_traces(spans, [one.trace_id for _, one in drawn])
    spent: tuple[dict[tuple[Category, str], int], ...] = (defaultdict(int), defaultdict(int))
    for _, one in drawn:
        root = request_root(traces[one.trace_id], one.span_id, service)
        if root is None:
            continue
        for part in request_ledger(traces[one.trace_id], root).slices:
            spent[one.stratum][part.category, part.label] += part.duration_ns
    below, above = (_shares(side) for side in spent)
    if not below or not above:
        return False
    most = max(above, key=lambda place: (above[place], place))
    return below.get(most, 0.0) >= MIN_ALIKE * above[most]


def _shares(spent: Mapping[tuple[Category, str], int]) -> dict[tuple[Category, str], float]:
    whole = sum(spent.values())
    return {place: took / whole for place, took in spent.items()} if whole else {}


def _in_the_same_traces(
    spans: Spans, found: Mapping[tuple[str, str], TailSampling]
) -> dict[tuple[str, str], TailSampling]:
    """By endpoint, those found and those whose requests are mostly in their traces, with the one of most."""
    keys = list(found)
    rows = spans.rows(
        """
        with judged as (
            select distinct trace_id, asked.place from requests
            join (
                select unnest($services) as service, unnest($endpoints) as endpoint, unnest($places) as place
            ) as asked on asked.service = requests.service and asked.endpoint = requests.endpoint
            where request_class in ('request', 'candidate')
        ), totals as (
            select service, endpoint, count(*) as n from requests
            where request_class in ('request', 'candidate') group by service, endpoint
        )
        select requests.service, requests.endpoint, judged.place, count(*) as shared, any_value(totals.n) as n
        from requests join judged on judged.trace_id = requests.trace_id
        join totals on totals.service = requests.service and totals.endpoint = requests.endpoint
        where request_class in ('request', 'candidate')
        group by requests.service, requests.endpoint, judged.place
        order by shared, judged.place
        """,
        services=[service for service, _ in keys],
        endpoints=[endpoint for _, endpoint in keys],
        places=list(range(len(keys))),
    )
    below = {
        (service, endpoint): found[keys[int(place)]]
        for service, endpoint, place, shared, total in rows
        if shared >= MIN_SAME_TRACES * total
    }
    return {**below, **found}
