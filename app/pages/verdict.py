"""The first sentence of the overview: is it slow, where, why, what first, out of the reports' numbers."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.endpoint_reports import LatencyChange, Suspect
from analysis.reports import EndpointRow, Finding, FixesReport, Gain, Overview
from analysis.tail_sentence import spent_words
from analysis.wording import count_text, duration_text, interval_text, quantile_name, share_text, sigma_text

SLOW_FACTOR = 5
"""A p99 this many times the median is a tail worth a sentence."""
ENOUGH = 30
"""Requests below which an endpoint's tail is not spoken of."""


@dataclass(frozen=True)
class Phrase:
    """A piece of the sentence; `target` says what it links to."""

    text: str
    target: str = ""
    """Empty, `endpoint`, `fix` or `fixes`."""
    service: str = ""
    endpoint: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class Verdict:
    tone: str
    """`slow`, `calm` or `unsure`: how the sentence is marked."""
    phrases: tuple[Phrase, ...]

    @property
    def text(self) -> str:
        return "".join(phrase.text for phrase in self.phrases)


def verdict(overview: Overview, fixes: FixesReport) -> Verdict:
    """One or two sentences with the numbers in them; says so where the data cannot carry a judgement."""
    ranked = [row for row in overview.endpoints if row.count >= ENOUGH and row.p99.value_ns is not None]
    best = _best(fixes)
    if best is not None:
        return _about_finding(overview, best)
    if not ranked:
        return Verdict(
            "unsure",
            (Phrase(_too_few(overview)),),
        )
    worst = max(ranked, key=lambda row: (_slowness(row), row.service, row.endpoint))
    if _slowness(worst) < SLOW_FACTOR:
        return Verdict("calm", _calm(worst))
    return Verdict("slow", (*_tail(worst), Phrase(" No detector names a cause; its page shows where the time goes.")))


def _too_few(overview: Overview) -> str:
    if not overview.request_count:
        return "No request in this window."
    count = count_text(overview.request_count)
    if any(row.tail_sampling for row in overview.endpoints):
        return (
            f"{count} requests in this window, of traces that look sampled by how long they took: their percentiles "
            "would be the sampler's."
        )
    return f"{count} requests in this window: too few at any endpoint to judge a tail ({ENOUGH} are needed)."


def _best(fixes: FixesReport) -> Finding | None:
    sure = [finding for finding in fixes.findings if finding.confidence != "low"]
    return sure[0] if sure else None


def _about_finding(overview: Overview, finding: Finding) -> Verdict:
    gain = finding.gain
    rows = {(row.service, row.endpoint): row for row in overview.endpoints}
    row = rows.get((gain.service, gain.endpoint))
    opening: tuple[Phrase, ...] = (_named(gain.service, gain.endpoint), Phrase(" loses time."))
    if row is not None and row.p99.value_ns is not None:
        opening = _tail(row)
    saved = ""
    if gain.p99_saved_ns > 0:
        bound = "" if gain.bound == "about" else f"{gain.bound} "
        saved = f" would save {bound}{duration_text(gain.p99_saved_ns)} at {gain_quantile_text(gain)}"
    cause = Phrase(_without_stop(finding.title), "fix", fingerprint=finding.fingerprint)
    return Verdict("slow", (*opening, Phrase(" Change first: "), cause, Phrase(f"; that{saved}." if saved else ".")))


def gain_quantile_text(gain: Gain) -> str:
    """`p99`, or `p99 of what was kept`."""
    return f"{quantile_name(gain.quantile)}{' of what was kept' if gain.of_kept else ''}"


def _without_stop(title: str) -> str:
    return title.rstrip(".")


def _tail(row: EndpointRow) -> tuple[Phrase, ...]:
    p99, p50 = row.p99, row.p50
    value = duration_text(p99.value_ns or 0)
    if p99.low_ns is not None and p99.high_ns is not None:
        value += f" ({interval_text(p99.low_ns, p99.high_ns)})"
    else:
        value += f" (n = {count_text(p99.count)}, too few for an interval)"
    factor = f", {_slowness(row):.0f} times the median" if p50.value_ns and _slowness(row) >= 2 else ""
    errors = f", and {share_text(row.error_share)} of its requests fail" if row.error_share >= 0.01 else ""
    return (_named(row.service, row.endpoint), Phrase(f" has a p99 of {value}{factor}{errors}."))


def _calm(worst: EndpointRow) -> tuple[Phrase, ...]:
    return (
        Phrase("No endpoint has a long tail: the longest is "),
        _named(worst.service, worst.endpoint),
        Phrase(
            f" with a p99 of {duration_text(worst.p99.value_ns or 0)}, "
            f"{_slowness(worst):.1f} times its median. Nothing needs changing first."
        ),
    )


def _named(service: str, endpoint: str) -> Phrase:
    return Phrase(f"{service} {endpoint}".strip(), "endpoint", service, endpoint)


def _slowness(row: EndpointRow) -> float:
    if not row.p50.value_ns or row.p99.value_ns is None:
        return 0.0
    return row.p99.value_ns / row.p50.value_ns


def change_sentence(change: LatencyChange) -> str:
    """What changed, by how much, where the time went and which versions came: to follow the moment."""
    went = "rose" if change.grew else "fell"
    said = (
        f"{quantile_name(change.quantile)} {went} from {duration_text(change.before_ns)} to "
        f"{duration_text(change.after_ns)}."
    )
    if change.category is not None:
        more = "more" if change.grew else "less"
        where = spent_words(change.category, change.label)
        said += f" The mean request spends {duration_text(abs(change.growth_ns))} {more} {where}."
    if change.suspect is not None:
        said += f" {_suspected(change.suspect)}"
    if change.versions:
        said += f" First seen at about that time: {', '.join(change.versions)}."
    return said


def _suspected(suspect: Suspect) -> str:
    evidence = []
    if suspect.cost_ns > 0 and suspect.z > 0:
        evidence.append(f"{duration_text(suspect.cost_ns)} more a request, {sigma_text(suspect.z)} beyond the usual")
    if suspect.stops > 0:
        evidence.append(f"usual calls are missing after {share_text(suspect.stops)} of the requests to it")
    if suspect.fails > 0:
        evidence.append(f"failures begin in {share_text(suspect.fails)} of the requests to it")
    return f"The service at fault is most likely {suspect.service}: {'; '.join(evidence)}."
