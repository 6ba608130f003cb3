from __future__ import annotations

import pytest

from analysis.wording import count_text, duration_text, interval_text, number_text, share_text, sigma_text


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


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8.0, "8"),
        (1_234_567.0, "1\u2009234\u2009567"),
        (0.25, "0.25"),
        (-3.5, "-3.5"),
        (12.3456, "12.3"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (1e18, "1e+18"),
    ],
)
def test_numbers_of_unknown_unit(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("deviations", "text"),
    [(0.0, "0.0 σ"), (4.23, "+4.2 σ"), (-1.26, "−1.3 σ"), (2_000, "> 99 σ"), (-2_000, "< −99 σ"), (0.04, "0.0 σ")],
)
def test_deviations(deviations: float, text: str) -> None:
    assert sigma_text(deviations) == text
