"""What every kind of wait has in common: measures, course over time, who pays and where to look.

A source of waits is SQL text that yields one row a wait:
`trace_id, span_id, parent_span_id, first` (who waits), `second` (for what), `value_ns` (how long),
`failed` (1 where the waiter gave up), `arrival_ns` (when it began to wait) and `work_ns` (what came after).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.grouped import Group, bucket_size_ns, bucket_starts_ns, group_quantiles
from analysis.reports import QueueRow
from analysis.span import Spans, trace_bounds

NOTICEABLE_NS = 1_000_000
_NOTICEABLE = f"value_ns > {NOTICEABLE_NS}"
MAX_PAYERS = 8
MAX_TRACES = 5
_ENOUGH_FOR_P95 = 20
_MAX_DEPTH = 32

Key = tuple[str, str]


def wait_rows(
    spans: Spans,
    source: str,
    *,
    kind: str,
    confidence: str,
    parameters: Mapping[str, object] | None = None,
    notes: Mapping[Key, Sequence[str]] | None = None,
) -> list[QueueRow]:
    """One row for each (who waits, for what), most total time first."""
    # Kept, because eight queries follow: a source is joins over all spans of the window.
    spans.keep("waits", source, **(parameters or {}))
    groups = group_quantiles(spans, "select * from waits", qs=(0.5, 0.95, 0.99))
    if not groups:
        return []
    waited, work = _waited_and_work(spans)
    series = _series(spans)
    spans.keep("noticeable", f"select first, second, trace_id, span_id, value_ns from waits where {_NOTICEABLE}")  # noqa: S608 - constants
    payers = _payers(spans)
    examples = _examples(spans)
    bucket_ns, starts = _buckets(spans)
    empty: tuple[tuple[int, ...], tuple[int | None, ...]] = ((0,) * len(starts), (None,) * len(starts))
    rows = []
    for key, group in groups.items():
        arrivals, p95 = series.get(key, empty)
        row = _row(kind, key, confidence, group)
        rows.append(
            replace(
                row,
                waited=waited.get(key, 0),
                service_p50_ns=work.get(key, 0),
                payers=tuple(payers.get(key, ())[:MAX_PAYERS]),
                bucket_ns=bucket_ns,
                start_ns=starts,
                arrivals=arrivals,
                wait_p95_ns=p95,
                trace_ids=tuple(examples.get(key, ())),
                notes=tuple((notes or {}).get(key, ())),
            )
        )
    return rows


def _row(kind: str, key: Key, confidence: str, group: Group) -> QueueRow:
    p50, p95, p99 = group.quantiles
    return QueueRow(
        kind=kind,
        name=key[1],
        service=key[0],
        confidence=confidence,
        count=group.count,
        waited=0,
        p50=p50,
        p95=p95,
        p99=p99,
        max_ns=group.max_ns,
        total_ns=group.total_ns,
        timeouts=group.failed,
        service_p50_ns=0,
        payers=(),
        bucket_ns=1,
        start_ns=(),
        arrivals=(),
        wait_p95_ns=(),
        trace_ids=(),
        notes=(),
    )


def _waited_and_work(spans: Spans) -> tuple[dict[Key, int], dict[Key, int]]:
    rows = spans.rows(
        f"""
        select first, second, sum(case when {_NOTICEABLE} then 1 else 0 end) as waited,
               {spans.quantile("work_ns", 0.5)} as work_p50_ns
        from waits
        group by first, second
        order by first, second
        """  # noqa: S608 - the engine's word for a quantile
    )
    return {(a, b): int(n) for a, b, n, _ in rows}, {(a, b): round(work) for a, b, _, work in rows}


def _buckets(spans: Spans) -> tuple[int, tuple[int, ...]]:
    window = spans.window
    bucket_ns = bucket_size_ns(window.duration_ns, 60)
    return bucket_ns, bucket_starts_ns(window.start_ns, window.end_ns, bucket_ns)


def _series(spans: Spans) -> dict[Key, tuple[tuple[int, ...], tuple[int | None, ...]]]:
    """Arrivals and p95 wait by time of arrival; what arrived before the window counts in its first bucket."""
    bucket_ns, starts = _buckets(spans)
    rows = spans.rows(
        f"""
        select first, second, floor((greatest(arrival_ns, $first_ns) - $first_ns) / $bucket_ns) as bucket,
               count(*) as n, {spans.quantile("value_ns", 0.95)} as p95_ns
        from waits
        group by first, second, bucket
        order by first, second, bucket
        """,  # noqa: S608 - the engine's word for a quantile
        first_ns=starts[0],
        bucket_ns=bucket_ns,
    )
    arrivals: dict[Key, list[int]] = {}
    waits: dict[Key, list[int | None]] = {}
    for first, second, bucket, count, p95_ns in rows:
        at = min(int(bucket), len(starts) - 1)
        arrivals.setdefault((first, second), [0] * len(starts))[at] += int(count)
        line = waits.setdefault((first, second), [None] * len(starts))
        line[at] = round(p95_ns) if count >= _ENOUGH_FOR_P95 else line[at]
    return {key: (tuple(line), tuple(waits[key])) for key, line in arrivals.items()}


def _payers(spans: Spans) -> dict[Key, list[tuple[str, str, int, int]]]:
    bounds = trace_bounds(spans, "select trace_id from noticeable")
    rows = spans.rows(
        f"""
        with recursive {owners("noticeable")}
        select waits.first, waits.second, owned.service, owned.endpoint,
               count(distinct owned.owner_id) as requests, sum(waits.value_ns) as waited_ns
        from noticeable as waits
        join owned on owned.trace_id = waits.trace_id and owned.seed_id = waits.span_id
        group by waits.first, waits.second, owned.service, owned.endpoint
        order by waits.first, waits.second, waited_ns desc, owned.service, owned.endpoint
        """,  # noqa: S608 - texts of this package only
        first_ns=bounds[0],
        last_ns=bounds[1],
    )
    payers: dict[Key, list[tuple[str, str, int, int]]] = {}
    for first, second, service, endpoint, requests, waited_ns in rows:
        payers.setdefault((first, second), []).append((service, endpoint, int(requests), int(waited_ns)))
    return payers


def owners(seeds: str) -> str:
    """Common table expressions that find the request around each row of `seeds(trace_id, span_id)`.

    They end in `owned(trace_id, seed_id, owner_id, service, endpoint)`: the first request at or above the seed, or
    the topmost span that is there. For use after `with recursive`; bounded to 32 steps, so cycles end. The query takes
    `trace_bounds` of the seeds as $first_ns and $last_ns.
    """
    return f"""
    around as (
        select trace_id, span_id, parent_span_id, request_class, service, endpoint from trace_spans
        where trace_id in (select trace_id from {seeds}) and start_ns between $first_ns and $last_ns
    ),
    climb as (
        select around.*, seed.span_id as seed_id, 0 as depth
        from {seeds} as seed
        join around on around.trace_id = seed.trace_id and around.span_id = seed.span_id
        union all
        select parent.*, climb.seed_id, climb.depth + 1 as depth
        from climb
        join around as parent on parent.trace_id = climb.trace_id and parent.span_id = climb.parent_span_id
        where climb.request_class <> 'request' and climb.depth < {_MAX_DEPTH}
          and (climb.request_class <> 'candidate' or parent.service = climb.service)
    ),
    owned as (
        select trace_id, seed_id, max_by(span_id, depth) as owner_id, max_by(service, depth) as service,
               max_by(endpoint, depth) as endpoint
        from climb
        group by trace_id, seed_id
    )
    """  # noqa: S608 - texts of this package only


def _examples(spans: Spans) -> dict[Key, list[str]]:
    """The traces with the longest waits; of short waits only where nobody waited noticeably."""
    rows = spans.rows(
        f"""
        select first, second, replace(trace_id::varchar, '-', '') as trace from (
            select first, second, trace_id, value_ns,
                   row_number() over (partition by first, second order by value_ns desc, trace_id) as place
            from (
                select first, second, trace_id, max(value_ns) as value_ns
                from waits
                left join (select distinct first, second, true as long from noticeable) as keys using (first, second)
                where {_NOTICEABLE} or keys.long is null
                group by first, second, trace_id
            ) as traces
        ) as ranked
        where place <= {MAX_TRACES}
        order by first, second, place
        """  # noqa: S608 - constants
    )
    examples: dict[Key, list[str]] = {}
    for first, second, trace in rows:
        examples.setdefault((first, second), []).append(trace)
    return examples
