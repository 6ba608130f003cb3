"""How many requests were under way at once lately."""

from __future__ import annotations

from app.ingest.recent_peak import RecentPeak


def test_a_peak_is_remembered_for_half_a_second_to_one() -> None:
    now = 100.0
    peak = RecentPeak(lambda: now)
    assert peak.value() == 1
    peak.note(3)
    peak.note(8)
    peak.note(2)
    assert peak.value() == 8
    now = 100.7
    assert peak.value() == 8
    peak.note(4)
    now = 101.1
    assert peak.value() == 4
    now = 150.0
    assert peak.value() == 1
