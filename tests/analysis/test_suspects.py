"""Which service is at fault, on requests whose fault is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from analysis.endpoint_reports import Suspect
from analysis.node import Node
from analysis.span import Kind, Span
from analysis.suspects import suspects
from analysis.trace import build_trace
from tests.random_traces import span

MS = 1_000_000
COUNT = 60


@dataclass(frozen=True)
class Called:
    """A call of the gateway: its callee's own time, what lies between, and what the callee calls in turn."""

    service: str
    own_ms: float = 10
    gap_ms: float = 2
    failed: bool = False
    answered: bool = True
    below: str = ""


USUAL = [Called("cart"), Called("stock", below="price"), Called("mail")]
Change = Callable[[int, list[Called]], list[Called]]


def request(number: int, calls: Sequence[Called], first_id: int = 1) -> Node:
    """A request to the gateway that makes the calls one after the other; times vary by a tenth from one to the next."""
    found: list[Span] = []
    vary = 1 + 0.1 * ((number * 7) % 11 - 5) / 5
    now = 3 * MS

    def add(parent: int, kind: Kind, service: str, name: str, start: int, end: int, failed: bool = False) -> int:
        span_id = first_id + len(found)
        found.append(
            span(
                span_id,
                parent,
                start,
                end,
                kind=kind,
                service=service,
                name=name,
                endpoint=name,
                operation=name,
                outcome="error" if failed else "ok",
                trace_id=f"{first_id + number:032x}",
            )
        )
        return span_id

    root = add(0, Kind.SERVER, "gateway", "GET /", 0, 0)
    for one in calls:
        gap, own = round(one.gap_ms * vary * MS), round(one.own_ms * vary * MS)
        client = add(root, Kind.CLIENT, "gateway", f"call {one.service}", now, now + gap + own, one.failed)
        if one.answered:
            begin = now + gap // 2
            server = add(client, Kind.SERVER, one.service, "serve", begin, begin + own, one.failed)
            if one.below:
                inner = add(server, Kind.CLIENT, one.service, "ask", begin + own // 4, begin + own // 2)
                add(inner, Kind.SERVER, one.below, "answer", begin + own // 4, begin + own // 2)
        now += gap + own
    found[0] = found[0]._replace(duration_ns=now + 3 * MS)
    return build_trace(found).roots[0]


def requests(change: Change | None = None) -> list[Node]:
    return [request(number, change(number, list(USUAL)) if change else USUAL) for number in range(COUNT)]


def changed(service: str, **values: object) -> Change:
    """The call of one service otherwise than usual."""
    return lambda _, calls: [replace(one, **values) if one.service == service else one for one in calls]  # type: ignore[arg-type]


def slower_gaps(_: int, calls: list[Called]) -> list[Called]:
    return [replace(one, gap_ms=one.gap_ms + 8) for one in calls]


def broken_off(after: int) -> Change:
    """Half of the requests end after the first `after` calls."""
    return lambda number, calls: calls[:after] if number % 2 else calls


CASES: dict[str, tuple[Change, str]] = {
    "a callee works longer": (changed("stock", own_ms=40), "stock"),
    "the way to a callee became longer": (changed("mail", gap_ms=15), "mail"),
    "the way to every callee became longer: the caller is slow": (slower_gaps, "gateway"),
    "a callee fails": (changed("cart", failed=True), "cart"),
    "a callee does not answer": (changed("cart", failed=True, answered=False, own_ms=1), "cart"),
    "calls end after a callee that says nothing": (broken_off(2), "stock"),
    "calls are not made": (broken_off(0), "gateway"),
    "a callee no longer calls on": (changed("stock", below=""), "stock"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_service_at_fault_is_first(case: str) -> None:
    change, culprit = CASES[case]
    first, second = suspects(requests(), requests(change))[:2]
    assert first.service == culprit
    # "price" below it is slower in the same proportion where all of "stock" is.
    assert first.score > (1.3 if case == "a callee works longer" else 10) * max(second.score, 0.01)
    assert first.score > 0.5


def test_what_a_request_pays_is_the_added_time() -> None:
    (stock, *_) = suspects(requests(), requests(changed("stock", own_ms=40)))
    # "price" below it takes a quarter of its time.
    assert stock.cost_ns == pytest.approx(0.75 * 30 * MS, rel=0.02)
    assert (stock.stops, stock.fails) == (0, 0)
    (mail, *_) = suspects(requests(), requests(changed("mail", gap_ms=15)))
    assert mail.cost_ns == pytest.approx(13 * MS, rel=0.02)


def test_shares_are_of_the_requests_to_the_service() -> None:
    half: Change = lambda number, calls: changed("cart", failed=True)(number, calls) if number % 2 else calls  # noqa: E731
    (cart, *_) = suspects(requests(), requests(half))
    # Half, less two standard deviations of what chance makes of none in sixty against thirty.
    assert cart.service == "cart"
    assert cart.fails == pytest.approx(0.5 - 2 * (0.25 * 0.75 * 2 / COUNT) ** 0.5, abs=1e-9)
    (stock, *_) = suspects(requests(), requests(broken_off(2)))
    visits, stopped = COUNT, COUNT / 2
    assert stock.stops == pytest.approx(stopped / visits - 2 * (0.25 * 0.75 * 2 / COUNT) ** 0.5, abs=1e-9)


def test_nothing_is_suspect_where_nothing_changed() -> None:
    for one in suspects(requests(), requests()):
        assert one.score == pytest.approx(0, abs=0.02)
        assert (one.stops, one.fails) == (0, 0)
    later = [request(number, USUAL) for number in range(5, 5 + COUNT)]
    assert all(one.score < 0.1 for one in suspects(requests(), later))


def test_neither_ids_nor_order_matter() -> None:
    change = changed("stock", own_ms=12)
    expected = suspects(requests(), requests(change))
    again = [request(number, change(number, list(USUAL)), first_id=90_001) for number in range(COUNT)]
    found = suspects(requests()[::-1], again[::-1])

    def values(of: Sequence[Suspect]) -> list[object]:
        return [(one.service, pytest.approx(one.z), pytest.approx(one.cost_ns), one.stops, one.fails) for one in of]

    assert [(one.service, one.z, one.cost_ns, one.stops, one.fails) for one in found] == values(expected)


def test_few_or_no_requests_are_no_error() -> None:
    assert suspects([], []) == ()
    assert suspects(requests(), []) == ()
    # What was never seen before counts with all of its time.
    assert {one.service for one in suspects([], requests())} == {"gateway", "cart", "stock", "price", "mail"}
    (first, *_) = suspects([request(0, USUAL)], [request(0, changed("mail", own_ms=500)(0, list(USUAL)))])
    assert first.service == "mail"
