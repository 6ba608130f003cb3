"""What slow requests have in common, on requests whose reason is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from analysis.contrast_facts import is_symptom
from analysis.endpoint_reports import Contrasts, EndpointReport
from analysis.span import Kind
from analysis.tail import endpoint_report
from analysis.wording import share_text
from app.otlp.attributes import AttributeValue
from app.otlp.columns import Batch
from tests.stored import Drawn, stored

Said = tuple[Mapping[str, AttributeValue], Mapping[str, AttributeValue], str]
"""Attributes of the request, attributes of its call, and the instance that it ran on."""


def traffic(say: Callable[[int, bool, random.Random], Said], count: int = 600, slow: int = 12) -> Batch:
    """Requests of which one in `slow` takes 300 ms more; what their spans say depends on whether it does."""
    draws = random.Random(7)
    drawn = Drawn()
    for number in range(count):
        late = number % slow == 0
        own, called, instance = say(number, late, draws)
        start, work = number * 100.0, draws.uniform(10, 20) + (300 if late else 0)
        root = drawn.add(
            "shop",
            "GET /",
            start,
            start + work + 4,
            kind=Kind.SERVER,
            trace=number + 1,
            attributes=own,
            instance=instance,
        )
        drawn.add(
            "shop",
            "ask",
            start + 2,
            start + work + 2,
            kind=Kind.INTERNAL,
            parent=root,
            trace=number + 1,
            attributes=called,
            instance=instance,
        )
    return drawn.batch()


def report_on(batch: Batch) -> EndpointReport:
    with stored([batch]) as spans:
        return endpoint_report(spans, "shop", "GET /")


def found(batch: Batch) -> Contrasts:
    return report_on(batch).contrasts


def test_the_value_that_makes_requests_slow_is_first_with_its_shares() -> None:
    def say(number: int, late: bool, draws: random.Random) -> Said:
        tenant = "acme" if late or draws.random() < 0.1 else f"tenant-{number % 4}"
        return {"tenant.id": tenant, "user.id": f"u{number}", "colour": draws.choice(["red", "blue"])}, {}, "1"

    report = report_on(traffic(say))
    (first, *rest) = report.contrasts.values
    share = share_text(first.body_share)
    assert report.sentence.endswith(
        f" 100 % of them have tenant.id = acme in shop, against {share} of the normal ones."
    )
    assert (first.service, first.key, first.value) == ("shop", "tenant.id", "acme")
    assert first.tail_share == 1.0
    assert first.body_share == pytest.approx(0.1, abs=0.08)
    assert first.explained_share == 1.0
    assert len(first.trace_ids) == 5
    assert not rest


def test_healthy_requests_have_nothing_in_common() -> None:
    def say(number: int, late: bool, draws: random.Random) -> Said:
        return (
            {f"key{place}": draws.choice("abcdef") for place in range(30)} | {"size": draws.randrange(10_000)},
            {"rows": draws.randrange(100)},
            str(draws.randrange(3)),
        )

    contrasts = found(traffic(say))
    assert (contrasts.values, contrasts.symptoms, contrasts.numbers) == ((), (), ())
    assert contrasts.tested > 180


def test_instances_numbers_and_missing_values_count_and_equal_marks_are_one_row() -> None:
    def say(number: int, late: bool, draws: random.Random) -> Said:
        own: dict[str, AttributeValue] = {"zone": "b" if late else "a", "pod": "p-9" if late else f"p-{number % 3}"}
        if not late:
            own["cached"] = True
        return own, {"db.response.rows": draws.randrange(5_000 if late else 50)}, "9" if late else str(number % 3)

    contrasts = found(traffic(say))
    by_value = {(row.key, row.value): row for row in contrasts.values}
    ((key, value),) = by_value
    # One of them stands for the instance, the pod, the zone and the missing attribute.
    same = by_value[key, value].same_as
    assert {f"shop: {key} = {value}", *same} == {
        "shop: pod = p-9",
        "shop: zone = b",
        "shop: service.instance.id = shop-9",
        "shop: no cached",
    }
    (number,) = contrasts.numbers
    assert (number.service, number.key, number.symptom) == ("shop", "db.response.rows", False)
    assert number.larger_share > 0.95
    assert number.tail_median > 1_000 > 50 > number.body_median


def test_what_restates_the_outcome_is_a_symptom() -> None:
    def say(number: int, late: bool, draws: random.Random) -> Said:
        return (
            {"http.response.status_code": 504 if late else 200, "took_ms": 300 + number if late else number % 20},
            {},
            "1",
        )

    contrasts = found(traffic(say))
    assert contrasts.values == ()
    (row,) = contrasts.symptoms
    assert (row.key, row.value, row.same_as) == ("outcome", "504", ("shop: http.response.status_code = 504",))
    assert [(row.key, row.symptom) for row in contrasts.numbers] == [("took_ms", True)]


@pytest.mark.parametrize(
    ("key", "symptom"),
    [
        ("http.status_code", True),
        ("error.type", True),
        ("exception.type", True),
        ("http.request.resend_count", True),
        ("outcome", True),
        ("queue.duration", True),
        ("tenant.id", False),
        ("statusbar.colour", False),
        ("http.route", False),
        ("messages", False),
    ],
)
def test_symptoms_go_by_whole_words(key: str, symptom: bool) -> None:
    assert is_symptom(key) is symptom


def test_calls_that_only_slow_requests_make_are_named() -> None:
    draws = random.Random(3)
    drawn = Drawn()
    for number in range(400):
        start, late = number * 100.0, number % 10 == 0
        end = start + draws.uniform(20, 40) + (200 if late else 0)
        root = drawn.add("shop", "GET /", start, end, kind=Kind.SERVER, trace=number + 1)
        for call in range(8 if late else 2):
            drawn.add("shop", "read", start + call, start + call + 1, kind=Kind.INTERNAL, parent=root, trace=number + 1)
        if late:
            drawn.add("shop", "refresh", start + 10, end - 1, kind=Kind.INTERNAL, parent=root, trace=number + 1)
    report = report_on(drawn.batch())
    assert report.sentence.endswith(" 100 % of them call refresh from shop, against 0 % of the normal ones.")
    contrasts = report.contrasts
    (row,) = contrasts.values
    assert (row.key, row.value, row.tail_share, row.body_share) == ("calls", "refresh", 1.0, 0.0)
    assert [(one.key, one.tail_median, one.body_median) for one in contrasts.numbers] == [("calls of read", 8, 2)]


def test_few_requests_are_not_compared() -> None:
    contrasts = found(traffic(lambda number, late, draws: ({"x": late}, {}, "1"), count=30))
    assert contrasts == Contrasts((), (), (), 0)
