"""A region of an endpoint's requests, by when they began and how long they took, and a repeatable draw of both sides.

Those in the region and those outside it are each drawn by the lowest hashes of their traces, so that each side is a
simple random sample of its kept requests: means and shares of the sample, each request counted as often as it stands
for after a sampler upstream, hold for the side.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from analysis.draw import Stratum, draw_strata
from analysis.endpoint_reports import IN_REGION, Region, Side
from analysis.errors import NotFound
from analysis.sample import SampledRequest, linked_traces, request_root
from analysis.sampling import ADJUSTED_COUNT, is_sampled
from analysis.span import Spans

DRAWN_A_SIDE = 200


@dataclass(frozen=True, eq=False)
class ChosenSample:
    """What was drawn of an endpoint's requests in a region and outside it."""

    service: str
    endpoint: str
    region: Region
    chosen: Side
    rest: Side
    requests: tuple[SampledRequest, ...]

    @property
    def tail(self) -> list[SampledRequest]:
        """Those in the region."""
        return [request for request in self.requests if request.in_tail]

    @property
    def body(self) -> list[SampledRequest]:
        return [request for request in self.requests if request.in_body]


def sample_region(spans: Spans, service: str, endpoint: str, region: Region) -> ChosenSample:
    """Up to 200 requests in the region and up to 200 outside it; raises NotFound where the region holds none."""
    spans.keep(
        "strata",
        f"""
        select 0 as place, trace_id, span_id, duration_ns, outcome,
               {ADJUSTED_COUNT if is_sampled(spans) else "1.0"} as adjusted_count,
               case when {IN_REGION} then 1 else 0 end as stratum
        from requests
        where service = $service and endpoint = $endpoint and request_class in ('request', 'candidate')
        """,  # noqa: S608 - a constant expression
        service=service,
        endpoint=endpoint,
        **asdict(region),
    )
    sides = {
        int(stratum): Side(int(count), int(failed), round(p50_ns))
        for stratum, count, failed, p50_ns in spans.rows(
            f"""
            select stratum, count(*) as n, sum(case when outcome = 'ok' then 0 else 1 end) as failed,
                   {spans.quantile("duration_ns", 0.5)}
            from strata group by stratum order by stratum
            """  # noqa: S608 - the engine's word for a quantile
        )
    }
    if 1 not in sides:
        raise NotFound(f"no request to {service} {endpoint} in the chosen region and window")
    drawn = draw_strata(spans, [Stratum(0, number, side.count, DRAWN_A_SIDE) for number, side in sides.items()])
    traces = linked_traces(spans, [one.trace_id for _, one in drawn])
    requests = []
    for _, one in drawn:
        trace = traces[one.trace_id]
        root = request_root(trace, one.span_id, service)
        if root is not None:
            requests.append(
                SampledRequest(
                    trace,
                    root,
                    root.duration_ns,
                    weight=one.members / min(one.members, DRAWN_A_SIDE) * one.adjusted_count,
                    stratum=one.stratum,
                    in_tail=one.stratum == 1,
                    in_body=one.stratum == 0,
                    adjusted_count=one.adjusted_count,
                )
            )
    return ChosenSample(service, endpoint, region, sides[1], sides.get(0, Side(0, 0, 0)), tuple(requests))
