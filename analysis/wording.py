"""Numbers as people read them, the same in sentences, tables and commands."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.span import Thinned

_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))


def duration_text(duration_ns: float) -> str:
    """Three significant digits with their unit: `1.92 s`, `84.3 ms`, `410 µs`; minutes from two minutes on."""
    sign = "−" if duration_ns < 0 else ""
    size = abs(duration_ns)
    if size >= 120e9:
        minutes, seconds = divmod(round(size / 1e9), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{sign}{hours} h {minutes:02d} min" if hours else f"{sign}{minutes} min {seconds:02d} s"
    for unit_ns, unit in _UNITS:
        # 999.6 ms rounds to 1000 ms: show 1.00 s instead.
        if size >= 0.9995 * unit_ns:
            return f"{sign}{_three_digits(size / unit_ns)} {unit}"
    return "0 s" if size == 0 else f"{sign}{size:.2g} ns"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def interval_text(low_ns: float, high_ns: float) -> str:
    """Both ends in the unit of the larger one, that unit once: `1.71–2.20 s`, `−12.0 to 3.10 ms`."""
    largest = max(abs(low_ns), abs(high_ns))
    between = " to " if low_ns < 0 or high_ns < 0 else "–"
    if largest >= 120e9:
        return f"{duration_text(low_ns)}{between}{duration_text(high_ns)}"
    unit_ns, unit = next(((n, u) for n, u in _UNITS if largest >= 0.9995 * n), (1, "ns"))
    low, high = (f"{'−' if end < 0 else ''}{_three_digits(abs(end) / unit_ns)}" for end in (low_ns, high_ns))
    return f"{low}{between}{high} {unit}"


def listed_text(parts: Sequence[str]) -> str:
    """`one`, `one and two`, `one, two and three`; at least one."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def count_text(count: int) -> str:
    """Thousands parted by thin spaces."""
    return f"{count:,}".replace(",", "\u2009")


def number_text(value: float) -> str:
    """A number of unknown unit: whole where it is, else three significant digits."""
    if value != value or abs(value) == float("inf"):
        return str(value)
    if value == round(value) and abs(value) < 1e15:
        return count_text(round(value))
    return f"{value:.3g}"


def quantile_name(q: float) -> str:
    """`p50`, `p99`, `p99.9`."""
    return f"p{100 * q:.4g}"


def share_text(share: float) -> str:
    """Whole per cent; what is there but below one half says so."""
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def sigma_text(deviations: float) -> str:
    """Standard deviations with their sign; thousands of them are no more telling than a hundred."""
    if abs(deviations) > 99.5:
        return "> 99 σ" if deviations > 0 else "< −99 σ"
    return f"{'−' if deviations < -0.05 else '+' if deviations > 0.05 else ''}{abs(deviations):.1f} σ"


def partly_text(what: str, looked_at: Thinned) -> str:
    """A sentence about what was not looked at, empty where all was; `what` begins it: `Waits are`."""
    if looked_at.whole:
        return ""
    return (
        f"{what} those of {count_text(looked_at.kept)} of the window's {count_text(looked_at.total)} spans, in traces "
        f"drawn evenly from it: counts and totals of all are about {1 / looked_at.share:.0f} times as large. "
        "A shorter window is looked at whole."
    )
