"""Every detector's documentation holds: its Example fires, its Fixed does not, no other one's example confuses it."""

from __future__ import annotations

import pytest

from analysis.detector import SECTIONS, Detector, detectors
from analysis.fixes import findings_of
from analysis.reports import Finding
from tests.sketched import repeated, samples_of

WINDOW_NS = 3_600_000_000_000


def findings(detector: Detector, section: str, times: int = 40) -> list[Finding]:
    samples = samples_of(repeated(detector.sections[section], times))
    return findings_of(detector, samples, WINDOW_NS)


@pytest.mark.parametrize("detector", detectors(), ids=lambda detector: detector.name)
def test_example_fires_with_a_gain_and_evidence(detector: Detector) -> None:
    found = findings(detector, "Example")
    assert len(found) == 1
    finding = found[0]
    assert finding.detector == detector.name
    assert finding.affected_requests == 40
    assert finding.gain.p50_before_ns - finding.gain.p50_after_ns > 5_000_000
    assert finding.evidence
    assert all(evidence.span_ids for evidence in finding.evidence)
    assert finding.fix.steps
    assert finding.message.endswith(".")
    compile(finding.fix.before, "before", "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT
    compile(finding.fix.after, "after", "exec", flags=0x2000)


@pytest.mark.parametrize("detector", detectors(), ids=lambda detector: detector.name)
def test_fixed_is_silent(detector: Detector) -> None:
    assert findings(detector, "Fixed") == []


# Its Fixed waits longer on purpose: the gain it shows is that of calls that do not fail at all.
ADDS_TIME = {"retry-without-backoff"}


@pytest.mark.parametrize(
    "detector", [d for d in detectors() if d.name not in ADDS_TIME], ids=lambda detector: detector.name
)
def test_the_gain_of_the_example_reaches_what_fixed_draws(detector: Detector) -> None:
    fixed = samples_of(repeated(detector.sections["Fixed"], 1))
    finding = findings(detector, "Example")[0]
    drawn_ns = next(s for s in fixed if s.endpoint == finding.endpoint).requests[0].duration_ns
    assert finding.gain.p50_after_ns == pytest.approx(drawn_ns, rel=0.1)


@pytest.mark.parametrize("detector", detectors(), ids=lambda detector: detector.name)
def test_examples_of_the_others_are_silent(detector: Detector) -> None:
    for other in detectors():
        if other.name == detector.name:
            continue
        for section in ("Example", "Fixed"):
            assert findings_of(detector, samples_of(repeated(other.sections[section], 40)), WINDOW_NS) == []


def test_fingerprints_name_subjects_and_not_ids_or_times() -> None:
    for detector in detectors():
        first = findings(detector, "Example", times=40)
        again = findings(detector, "Example", times=60)
        assert [finding.fingerprint for finding in first] == [finding.fingerprint for finding in again]


def test_a_detector_without_its_sections_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="lacks the docstring sections"):
        type("Bare", (Detector,), {"__doc__": "Finds nothing.\n\n## What it finds\nNothing."})


def test_the_first_detectors_are_there_and_complete() -> None:
    names = {detector.name for detector in detectors()}
    assert names >= {"n-plus-one-queries", "serial-calls", "retry-without-backoff", "pool-wait"}
    for detector in detectors():
        assert set(SECTIONS) <= set(detector.sections)
