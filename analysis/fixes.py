"""Runs every detector over sampled requests and turns what they stand by into findings, most gain at the tail first.

Detectors look at each service's own part of a request. The gain is taken for every endpoint whose requests contain the
fault, callers included: a pool that is too small in one service is paid for at the edge.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace

from analysis.cohorts import kind_shares
from analysis.detector import Detector, Group, Occurrence, Verdict, detectors
from analysis.draw import FULL_SAMPLE
from analysis.gain import estimate_gain
from analysis.latency import EndpointTotal, endpoint_totals
from analysis.ledger import TimeKind
from analysis.normalise import content_hash64
from analysis.reports import EndpointProfile, Evidence, Finding, FixesReport, Gain
from analysis.retime import Edit
from analysis.sample import Sample, SampledRequest, sample_endpoints
from analysis.span import Spans
from analysis.tail_sampling import sampled_endpoints

MAX_ENDPOINTS = 24
MAX_REQUESTS = 1_500
"""Of all endpoints together, about: looking at one takes 0.2 ms, and the first page waits for it."""
_SHARES = (0.1, 0.6)
MAX_EVIDENCE = 8
MIN_CALLER_SAVING_NS = 1_000_000
"""Callers that would gain less than 1 ms at the tail are not listed."""


def fixes(spans: Spans) -> FixesReport:
    """Findings of all detectors in the endpoints that take the most time; bounded whatever the size of the store."""
    rows = endpoint_totals(spans)
    samples = sample_endpoints(spans, sample_shares(rows[:MAX_ENDPOINTS]))
    kept = sampled_endpoints(spans, samples)
    findings: list[Finding] = []
    failed: list[tuple[str, str]] = []
    for detector in detectors():
        try:
            found = findings_of(detector, samples, spans.window.duration_ns)
            findings.extend(_of_kept(finding, kept) for finding in found)
        except Exception as error:  # noqa: BLE001 - reported on the page: one broken rule must not hide the others
            failed.append((detector.name, f"{type(error).__name__}: {error}"))
    return FixesReport(
        findings=tuple(sorted(findings, key=_rank)),
        profiles=tuple(_profile(sample) for sample in samples),
        failed_detectors=tuple(failed),
        examined_requests=sum(len(sample.requests) for sample in samples),
        total_requests=sum(row.count for row in rows),
    )


def _of_kept(finding: Finding, kept: Container[tuple[str, str]]) -> Finding:
    gains = tuple(replace(gain, of_kept=(gain.service, gain.endpoint) in kept) for gain in finding.gains)
    return replace(finding, gains=gains)


def sample_shares(rows: Sequence[EndpointTotal]) -> dict[tuple[str, str], float]:
    """How much of a full sample to draw of each endpoint: by the root of the time that its requests take together.

    The error of an estimate falls with the root of what is drawn, so this spends the effort where the time goes.
    """
    least, most = _SHARES
    weights = [math.sqrt(row.total_ns) for row in rows]
    scale = MAX_REQUESTS / (FULL_SAMPLE * max(sum(weights), 1.0))
    return {
        (row.service, row.endpoint): min(most, max(least, scale * weight))
        for row, weight in zip(rows, weights, strict=True)
    }


@dataclass(eq=False)
class _Fault:
    """What a detector found of one operation: at home, and below the requests of every sampled endpoint."""

    home: dict[int, list[tuple[SampledRequest, Occurrence]]] = field(default_factory=lambda: defaultdict(list))
    """By position of the sample whose endpoint the fault is in."""
    edits: dict[int, dict[int, Edit]] = field(default_factory=lambda: defaultdict(dict))
    """By position of the sample, then of the request: the whole request with the fix applied."""


def findings_of(detector: Detector, samples: Sequence[Sample], window_ns: int) -> list[Finding]:
    """What one detector stands by in these samples."""
    faults: dict[tuple[str, str, str], _Fault] = defaultdict(_Fault)
    # Samples of callers and callees share traces: each entry span is looked at once.
    known: dict[int, tuple[Occurrence, ...]] = {}
    for position, sample in enumerate(samples):
        for number, request in enumerate(sample.requests):
            for entry in request.root.walk():
                if not entry.is_entry:
                    continue
                if id(entry) not in known:
                    known[id(entry)] = tuple(detector.occurrences(entry))
                for occurrence in known[id(entry)]:
                    endpoint = "" if detector.across_endpoints else entry.span.endpoint
                    fault = faults[entry.span.service, endpoint, occurrence.operation]
                    edits = fault.edits[position]
                    edits[number] = edits[number] | occurrence.edit if number in edits else occurrence.edit
                    if entry is request.root:
                        fault.home[position].append((request, occurrence))
    findings = []
    for (service, endpoint, operation), fault in faults.items():
        homes = sorted(fault.home, key=lambda position: -_cost_ns(fault.home[position]))
        if not homes:
            continue
        group = Group(
            service,
            tuple(samples[position].endpoint for position in homes),
            operation,
            tuple(samples[position] for position in homes),
            tuple(pair for position in homes for pair in fault.home[position]),
        )
        verdict = detector.verdict(group)
        if verdict is not None:
            subject = f"{detector.name}/{service}/{endpoint}/{operation}"
            gains = _gains(fault, samples, homes, verdict, window_ns)
            findings.append(_finding(detector, group, verdict, gains, subject))
    return findings


def _cost_ns(found: Sequence[tuple[SampledRequest, Occurrence]]) -> float:
    return sum(occurrence.cost_ns * request.weight for request, occurrence in found)


def _gains(
    fault: _Fault, samples: Sequence[Sample], homes: Sequence[int], verdict: Verdict, window_ns: int
) -> tuple[Gain, ...]:
    gains = []
    for position, edits in fault.edits.items():
        sample = samples[position]
        gain = estimate_gain(
            sample,
            [edits.get(number) for number in range(len(sample.requests))],
            window_ns,
            bound=verdict.bound,
            assumption=verdict.assumption,
        )
        if position in homes or gain.p99_saved_ns >= MIN_CALLER_SAVING_NS:
            gains.append(gain)
    return tuple(sorted(gains, key=lambda gain: (-gain.p99_saved_ns, gain.service, gain.endpoint)))


def _finding(detector: Detector, group: Group, verdict: Verdict, gains: tuple[Gain, ...], subject: str) -> Finding:
    return Finding(
        detector=detector.name,
        fingerprint=f"{content_hash64(subject):016x}",
        title=verdict.title,
        service=group.service,
        endpoint=group.endpoints[0],
        operation=group.operation,
        message=verdict.message,
        occurrences=len(group.found),
        affected_requests=group.requests,
        sampled_requests=sum(len(sample.requests) for sample in group.samples),
        confidence=verdict.confidence,
        confidence_reason=verdict.confidence_reason,
        gains=gains,
        evidence=_evidence(group.found),
        fix=verdict.fix,
    )


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
    shares = kind_shares(sample)
    return EndpointProfile(
        sample.service,
        sample.endpoint,
        len(sample.requests),
        shares[TimeKind.WORK],
        shares[TimeKind.WAIT],
        shares[TimeKind.WASTE],
    )


def _rank(finding: Finding) -> tuple[bool, int, str]:
    """What may be wrong last; the others by what they save at the tail of the endpoint that gains most."""
    return finding.confidence == "low", -finding.gain.p99_saved_ns, finding.fingerprint
