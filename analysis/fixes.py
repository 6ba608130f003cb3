"""Runs every detector over sampled requests and turns what they stand by into findings, most gain at the tail first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import or_

from analysis.cohorts import account
from analysis.detector import Detector, Group, Occurrence, Verdict, detectors
from analysis.gain import estimate_gain
from analysis.latency import endpoint_rows
from analysis.ledger import TimeKind
from analysis.normalise import content_hash64
from analysis.reports import EndpointProfile, Evidence, Finding, FixesReport
from analysis.retime import Edit
from analysis.sample import Sample, SampledRequest, sample_endpoint
from analysis.span import Spans

MAX_ENDPOINTS = 24
SAMPLE_SHARE = 0.6
MAX_EVIDENCE = 8


def fixes(spans: Spans) -> FixesReport:
    """Findings of all detectors in the endpoints that take the most time; bounded whatever the size of the store."""
    rows = endpoint_rows(spans)
    samples = [
        sample
        for row in rows[:MAX_ENDPOINTS]
        if (sample := sample_endpoint(spans, row.service, row.endpoint, SAMPLE_SHARE)) is not None
    ]
    findings: list[Finding] = []
    failed: list[tuple[str, str]] = []
    for detector in detectors():
        try:
            for sample in samples:
                findings.extend(findings_of(detector, sample, spans.window.duration_ns))
        except Exception as error:  # noqa: BLE001 - reported on the page: one broken rule must not hide the others
            failed.append((detector.name, f"{type(error).__name__}: {error}"))
    return FixesReport(
        findings=tuple(sorted(findings, key=_rank)),
        profiles=tuple(_profile(sample) for sample in samples),
        failed_detectors=tuple(failed),
        examined_requests=sum(len(sample.requests) for sample in samples),
        total_requests=sum(row.count for row in rows),
    )


def findings_of(detector: Detector, sample: Sample, window_ns: int) -> list[Finding]:
    """What one detector stands by in one endpoint's sample."""
    groups: dict[str, list[tuple[SampledRequest, Occurrence]]] = defaultdict(list)
    for request in sample.requests:
        for occurrence in detector.occurrences(request.root):
            groups[occurrence.operation].append((request, occurrence))
    findings = []
    for operation, found in groups.items():
        group = Group(sample.service, sample.endpoint, operation, sample, tuple(found))
        verdict = detector.verdict(group)
        if verdict is not None:
            findings.append(_finding(detector, group, verdict, window_ns))
    return findings


def _finding(detector: Detector, group: Group, verdict: Verdict, window_ns: int) -> Finding:
    edits: dict[int, list[Edit]] = defaultdict(list)
    for request, occurrence in group.found:
        edits[id(request)].append(occurrence.edit)
    sample = group.sample
    joined = [reduce(or_, edits[id(request)]) if id(request) in edits else None for request in sample.requests]
    subject = f"{detector.name}/{group.service}/{group.endpoint}/{group.operation}"
    return Finding(
        detector=detector.name,
        fingerprint=f"{content_hash64(subject):016x}",
        title=verdict.title,
        service=group.service,
        endpoint=group.endpoint,
        operation=group.operation,
        message=verdict.message,
        occurrences=len(group.found),
        affected_requests=group.requests,
        sampled_requests=len(sample.requests),
        tail_share=_cohort_share(sample.tail, edits),
        body_share=_cohort_share(sample.body, edits),
        confidence=verdict.confidence,
        confidence_reason=verdict.confidence_reason,
        gain=estimate_gain(sample, joined, window_ns, is_floor=verdict.is_floor, assumption=verdict.assumption),
        evidence=_evidence(group.found),
        fix=verdict.fix,
    )


def _cohort_share(cohort: Sequence[SampledRequest], touched: Iterable[int]) -> float:
    members = set(touched)
    return sum(1 for request in cohort if id(request) in members) / len(cohort) if cohort else 0.0


def _evidence(found: Sequence[tuple[SampledRequest, Occurrence]]) -> tuple[Evidence, ...]:
    worst = sorted(found, key=lambda pair: (-pair[1].cost_ns, pair[0].trace.trace_id))
    return tuple(
        Evidence(
            request.trace.trace_id,
            tuple(node.span.span_id for node in occurrence.offenders[:50]),
            occurrence.note,
        )
        for request, occurrence in worst[:MAX_EVIDENCE]
    )


def _profile(sample: Sample) -> EndpointProfile:
    shares = account(sample).kind_shares()
    return EndpointProfile(
        sample.service,
        sample.endpoint,
        len(sample.requests),
        shares[TimeKind.WORK],
        shares[TimeKind.WAIT],
        shares[TimeKind.WASTE],
    )


def _rank(finding: Finding) -> tuple[int, float, str]:
    """High and medium confidence before low, then by what the fix saves at the tail and over a day."""
    saved = finding.gain.p99_saved_ns if finding.gain else 0
    daily = finding.gain.request_seconds_per_day if finding.gain else 0.0
    return int(finding.confidence == "low"), -(saved + daily * 1e3), finding.fingerprint
