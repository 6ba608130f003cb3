"""Hand-made reports with hostile names in every text field, for tests of charts and templates."""

from __future__ import annotations

from analysis.endpoint_reports import (
    Contrasts,
    EndpointReport,
    Exemplar,
    HeatMap,
    LatencyChange,
    LatencySeries,
    LedgerRow,
    NumberContrast,
    PathStep,
    Suspect,
    ValueContrast,
)
from analysis.ledger import Category, Slice
from analysis.quantiles import Quantile
from analysis.reports import (
    AttemptOutcome,
    EndpointProfile,
    EndpointRow,
    Evidence,
    Finding,
    Fix,
    FixesReport,
    Gain,
    Overview,
    QueueRow,
    QueuesReport,
    RetriesReport,
    RetryEdge,
    ServiceEdge,
)
from analysis.trace_reports import (
    CallCounts,
    ComparedRequest,
    PlaceTimes,
    SpanDetail,
    TraceComparison,
    TraceList,
    TraceListRow,
    TraceReport,
    TraceSpanRow,
)

HOSTILE = "<b>x</b><script>hacked=1</script>\"'><img src=x onerror=hacked=1>{{7*7}} %{y} $\\alpha$ &amp; \x1b\u202e"
"""Markup, attribute breakers, templates of Jinja, Plotly and TeX, a terminal escape and a right-to-left override."""

MS = 1_000_000
START = 1_700_000_000_000_000_000
TRACE = "0123456789abcdef0123456789abcdef"


def quantile(q: float, value_ms: float | None, trusted: bool = True, count: int = 1000) -> Quantile:
    if value_ms is None:
        return Quantile(q, 0, None, None, None)
    value = round(value_ms * MS)
    return Quantile(q, count, value, value * 9 // 10 if trusted else None, value * 11 // 10 if trusted else None)


def endpoint_row(
    service: str = HOSTILE, endpoint: str = HOSTILE, p50_ms: float = 20, p99_ms: float = 400, count: int = 1000
) -> EndpointRow:
    return EndpointRow(
        service=service,
        endpoint=endpoint,
        count=count,
        errors=13,
        adjusted_count=float(count),
        adjusted_errors=13.0,
        rate_per_s=0.4,
        total_ns=10**11,
        p50=quantile(0.5, p50_ms, count=count),
        p95=quantile(0.95, (p50_ms + p99_ms) / 2, count=count),
        p99=quantile(0.99, p99_ms, count=count),
        p999=quantile(0.999, p99_ms * 1.2, trusted=False, count=count),
        sparkline=(0, 5, 7, 0, 0, 3 * MS, 2, 0, 9) + (0,) * 15,
        wait_share=None,
        waste_share=None,
        work_share=None,
        density_step=None,
    )


def ledger_row(category: Category, body_ms: float, tail_ms: float, label: str = HOSTILE) -> LedgerRow:
    difference = round((tail_ms - body_ms) * MS)
    return LedgerRow(
        category,
        label,
        round(body_ms * MS),
        round(tail_ms * MS),
        difference - 3 * MS,
        difference + 4 * MS,
        difference / (2 * MS),
        0.9,
        (TRACE,),
    )


def path_steps() -> tuple[PathStep, ...]:
    return (
        PathStep(HOSTILE, HOSTILE, Category.OWN_CODE, 0, -1, 20 * MS, 400 * MS, 1 * MS, 2 * MS),
        PathStep("orders", HOSTILE, Category.POOL, 1, 0, 0, 300 * MS, 0, 300 * MS),
        PathStep("orders", "SELECT 1", Category.DATABASE, 1, 0, 19 * MS, 98 * MS, 19 * MS, 98 * MS),
    )


def endpoint_report() -> EndpointReport:
    starts = tuple(START + index * 10**10 for index in range(4))
    return EndpointReport(
        row=endpoint_row(),
        withheld="",
        sentence=f"Slow requests wait for {HOSTILE}.",
        before="",
        tail_quantile=0.99,
        tail_from_ns=400 * MS,
        body_low_ns=18 * MS,
        body_high_ns=22 * MS,
        sampled_tail=10,
        sampled_body=200,
        series=LatencySeries(
            10**10,
            starts,
            (40, 0, 30, 900),
            (0, 0, 1, 2),
            (20 * MS, None, 21 * MS, 22 * MS),
            (90 * MS, None, None, 99 * MS),
            (None, None, None, 400 * MS),
        ),
        changes=(
            LatencyChange(0.95, starts[1], 90 * MS, 99 * MS, Category.POOL, HOSTILE, 30 * MS, None, (HOSTILE,)),
            LatencyChange(
                0.5,
                starts[3],
                22 * MS,
                20 * MS,
                None,
                "",
                0,
                Suspect(HOSTILE, z=4.2, cost_ns=30e6, stops=0.25, fails=0.5, score=3.0),
                (),
            ),
        ),
        heat_map=HeatMap(
            10**10, starts, (10 * MS, 20 * MS, 40 * MS, 80 * MS), ((30, 0, 20, 500), (10, 0, 9, 300), (0, 0, 1, 100))
        ),
        ledger=(
            ledger_row(Category.POOL, 1, 300),
            ledger_row(Category.DATABASE, 5, 60),
            ledger_row(Category.DATABASE, 9, 2),
        ),
        category_rows=tuple(ledger_row(category, 3, 7, "") for category in Category),
        contrasts=Contrasts(
            values=(
                ValueContrast(HOSTILE, HOSTILE, HOSTILE, 0.9, 0.1, 0.89, 1e-9, (HOSTILE, HOSTILE), (TRACE,)),
                ValueContrast("orders", "calls", HOSTILE, 0.8, 0.0, 0.8, 1e-9, (), (TRACE,)),
                ValueContrast("orders", "tenant", "", 0.8, 1 / 3, 0.7, 0.04, (), ()),
            ),
            symptoms=(ValueContrast("orders", "http.status_code", "504", 1.0, 0.0, 1.0, 1e-9, (), (TRACE,)),),
            numbers=(
                NumberContrast(HOSTILE, HOSTILE, 1234567.0, 0.25, 0.98, 1e-9, False),
                NumberContrast("orders", "db.response.duration_ms", float("nan"), -3.5, 0.1, 1e-9, True),
            ),
            tested=1234,
        ),
        path=path_steps(),
        exemplars=(
            Exemplar("p50", TRACE, 1, START, 20 * MS, failed=False),
            Exemplar(HOSTILE, TRACE, 2**64 - 1, START, 900 * MS, failed=True),
        ),
        trust=(f"Parents are missing: {HOSTILE}",),
    )


def finding(
    confidence: str = "high", bound: str = "at least", service: str = HOSTILE, endpoint: str = HOSTILE
) -> Finding:
    gain = Gain(
        service=service,
        endpoint=endpoint,
        p50_before_ns=20 * MS,
        p50_after_ns=19 * MS,
        p99_before_ns=400 * MS,
        p99_after_ns=100 * MS,
        p99_saved_low_ns=250 * MS,
        p99_saved_high_ns=340 * MS,
        quantile=0.99,
        request_seconds_per_day=120.0,
        tail_share=0.9,
        body_share=0.01,
        bound=bound,
        assumption=f"Nothing else changes in {HOSTILE}.",
    )
    small = Gain(**{**vars(gain), "service": "caller", "p99_saved_low_ns": None, "p99_saved_high_ns": None})
    return Finding(
        detector="pool-wait",
        fingerprint="00ff00ff00ff00ff",
        title=f"Waits for {HOSTILE}",
        service=service,
        endpoint=endpoint,
        operation=HOSTILE,
        message=f"It waits: {HOSTILE}",
        occurrences=40,
        affected_requests=30,
        sampled_requests=210,
        confidence=confidence,
        confidence_reason=f"Because of {HOSTILE}",
        gains=(gain, small),
        evidence=(Evidence(TRACE, tuple(range(1, 10)), HOSTILE), Evidence(TRACE, (), HOSTILE)),
        fix=Fix(
            f"Change {HOSTILE}", (f"First {HOSTILE}", "Then"), f"before = '{HOSTILE}'", f"after = '{HOSTILE}'", "python"
        ),
    )


def fixes_report(*findings: Finding) -> FixesReport:
    return FixesReport(
        findings=findings or tuple(finding() for _ in range(4)),
        profiles=(EndpointProfile(HOSTILE, HOSTILE, 210, 0.5, 0.25, 0.05),),
        failed_detectors=(("serial-calls", f"ValueError: {HOSTILE}"),),
        examined_requests=210,
        total_requests=1000,
    )


def overview_report(*rows: EndpointRow) -> Overview:
    ranked = rows or (endpoint_row(), endpoint_row("quiet", "GET /", 3, 4, count=12))
    return Overview(
        request_count=sum(row.count for row in ranked),
        span_count=9000,
        trace_count=1000,
        error_count=13,
        endpoints=ranked,
        edges=(ServiceEdge(HOSTILE, HOSTILE, 1200, 3, 10**10, 44 * MS), ServiceEdge("a", "", 1, 0, 0, 0)),
        left_out=(("worker polling and task lifetimes", 133),),
        notes=(f"Parents are missing in {HOSTILE}",),
    )


def queue_row(kind: str = "pool", confidence: str = "inferred") -> QueueRow:
    return QueueRow(
        kind=kind,
        name=HOSTILE,
        service=HOSTILE,
        confidence=confidence,
        count=500,
        waited=30,
        p50=quantile(0.5, 1),
        p95=quantile(0.95, 80),
        p99=quantile(0.99, 120, trusted=False, count=100),
        max_ns=130 * MS,
        total_ns=10**10,
        timeouts=2,
        service_p50_ns=3 * MS,
        payers=((HOSTILE, HOSTILE, 30, 10**9),),
        bucket_ns=10**10,
        start_ns=(START, START + 10**10, START + 2 * 10**10),
        arrivals=(200, 0, 300),
        wait_p95_ns=(70 * MS, None, 90 * MS),
        trace_ids=(TRACE,),
        notes=(HOSTILE,),
    )


def queues_report() -> QueuesReport:
    return QueuesReport((queue_row(), queue_row("queue", "measured")), ((HOSTILE, HOSTILE, 3),), (HOSTILE,))


def retry_edge() -> RetryEdge:
    return RetryEdge(
        caller=HOSTILE,
        callee=HOSTILE,
        operation=HOSTILE,
        kind="visible",
        calls=1000,
        retried_calls=90,
        attempts=1150,
        recovered=80,
        exhausted=10,
        wasted_ns=10**10,
        backoff_ns=10**9,
        by_attempt=(AttemptOutcome(1, 1000, 910, 90), AttemptOutcome(2, 90, 60, 30), AttemptOutcome(3, 60, 50, 10)),
        errors=((HOSTILE, 100), ("", 30)),
        backoff_gaps_ns=((0, 100 * MS, 102 * MS), ()),
        backoff_shape="constant",
        endpoints=((HOSTILE, HOSTILE, 90),),
        trace_ids=(TRACE,),
    )


def retries_report() -> RetriesReport:
    return RetriesReport((retry_edge(),), 900, 1000, (HOSTILE,))


def span_row(
    span_id: int, parent: int = 0, depth: int = 0, start_ms: float = 0, length_ms: float = 10, **more: object
) -> TraceSpanRow:
    start = START + round(start_ms * MS)
    fields: dict[str, object] = {
        "span_id": span_id,
        "parent_span_id": parent,
        "depth": depth,
        "service": HOSTILE,
        "name": HOSTILE,
        "kind": 3,
        "category": Category.DATABASE,
        "start_ns": start,
        "raw_start_ns": start,
        "duration_ns": round(length_ms * MS),
        "self_ns": MS,
        "critical": ((start, start + MS),),
        "critical_ns": MS,
        "failed": False,
        "outcome": "ok",
        "error_type": "",
        "attempt": 0,
        "operation": HOSTILE,
        "peer": HOSTILE,
        "scope_name": HOSTILE,
        "notes": (),
        "child_count": 0,
    }
    return TraceSpanRow(**{**fields, **more})  # type: ignore[arg-type]


def trace_report(rows: tuple[TraceSpanRow, ...] | None = None) -> TraceReport:
    rows = rows or (
        span_row(1, length_ms=100, child_count=4, category=Category.OWN_CODE, notes=(HOSTILE,)),
        span_row(2, 1, 1, 5, 10, attempt=1, failed=True, outcome="error", error_type=HOSTILE),
        span_row(3, 1, 1, 30, 20, attempt=2),
        span_row(4, 1, 1, 60, 20, category=Category.POOL),
        span_row(5, 1, 1, 90, 40, critical=(), critical_ns=0),
    )
    return TraceReport(
        trace_id=TRACE,
        start_ns=START,
        duration_ns=130 * MS,
        root_service=HOSTILE,
        root_endpoint=HOSTILE,
        services=(HOSTILE,),
        span_count=len(rows),
        error_count=1,
        rows=rows,
        slices=tuple(Slice(category, HOSTILE, MS * (index + 1), (1,)) for index, category in enumerate(Category)),
        notes=(HOSTILE,),
    )


def trace_comparison() -> TraceComparison:
    """More places and calls than a page shows."""
    slices = trace_report().slices
    sides = [
        ComparedRequest(TRACE, 2**64 - 1, HOSTILE, f"{HOSTILE}{number}", START, 90 * MS * number, number == 1, slices)
        for number in (1, 2)
    ]
    return TraceComparison(
        this=sides[0],
        other=sides[1],
        sentence=HOSTILE,
        places=tuple(PlaceTimes(Category.POOL, HOSTILE, number * MS, 7 * MS) for number in range(25)),
        calls=tuple(CallCounts(HOSTILE, HOSTILE, number, 0) for number in range(1, 25)),
        path=path_steps(),
    )


def span_detail() -> SpanDetail:
    attributes = (
        '{"' + "<b>k</b>" + '":"<script>hacked=1</script>","javascript":"javascript:hacked=1",'
        '"url":"https://example.org/?a=1&b=2","long":"' + "y" * 5000 + '","list":[1,{"a":"<i>"}],"n":1.0}'
    )
    return SpanDetail(
        span_id=2,
        attributes=attributes,
        resource=attributes,
        scope_name=HOSTILE,
        scope_version=HOSTILE,
        events=((START, HOSTILE, attributes),),
        links=((TRACE, 7, attributes),),
        status_message=HOSTILE,
        trace_state=HOSTILE,
        flags=1,
        dropped_attributes_count=1,
        dropped_events_count=2,
        dropped_links_count=3,
    )


def trace_list() -> TraceList:
    row = TraceListRow(TRACE, 1, HOSTILE, HOSTILE, START, 130 * MS, "error", HOSTILE, 500, 5)
    return TraceList((row, row), 120, (HOSTILE,), ((HOSTILE, HOSTILE),))
