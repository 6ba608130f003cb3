from __future__ import annotations

import pytest

from analysis.wording import count_text, duration_text, interval_text, share_text


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0 s"),
        (5, "5.00 ns"),
        (410_000, "410 µs"),
        (84_300_000, "84.3 ms"),
        (999_600_000, "1.00 s"),
        (1_920_000_000, "1.92 s"),
        (99_990_000_000, "100 s"),
        (125_000_000_000, "2 min 05 s"),
        (7_260_000_000_000, "2 h 01 min"),
        (-12_300_000, "−12.3 ms"),
    ],
)
def test_duration_text(duration_ns: int, text: str) -> None:
    assert duration_text(duration_ns) == text


def test_interval_counts_and_shares() -> None:
    assert interval_text(1_710_000_000, 2_200_000_000) == "1.71–2.20 s"
    assert interval_text(800_000, 12_000_000) == "0.80–12.0 ms"
    assert interval_text(-2_831_000, -24_400) == "−2.83 to −0.02 ms"
    assert interval_text(-394_000, 3_280_000) == "−0.39 to 3.28 ms"
    assert count_text(1234567) == "1\u2009234\u2009567"
    assert share_text(0.624) == "62 %"
    assert share_text(0.001) == "< 1 %"
    assert share_text(0.0) == "0 %"
