"""What slow requests have that normal ones do not: attribute values, calls, instances and versions, request by request.

A request has a value if any of its spans has it, so chatty traces count once. Each value is tested on its own (Fisher)
and the answers together (Benjamini, Hochberg); values that mark the same requests are one row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from analysis.contrast_facts import CALLS, Facts, Place, is_symptom
from analysis.endpoint_reports import Contrasts, NumberContrast, ValueContrast
from analysis.significance import false_discovery_rates, larger, more_often

MIN_COHORT = 10
MIN_REQUESTS = 5
MIN_DIFFERENCE = 0.1
"""A value of fewer slow requests, or hardly more frequent among them, explains nothing worth a row."""
MAX_FALSE = 0.05
MIN_DOMINANCE = 0.65
"""A number is larger in a slow request than in a normal one in 65 of 100 pairs, or in 35."""
SAME = 0.95
MAX_ROWS = 12
MAX_SAME = 6
MAX_TRACES = 5
_FEW_VALUES = 10
_UNIQUE = 0.5
_ENOUGH_TO_BE_UNIQUE = 20


@dataclass(eq=False)
class _Value:
    """One value of one place, with the requests that have it: bits, those of the tail first."""

    place: Place
    value: str
    members: int = 0
    tail: int = 0
    body: int = 0
    p: float = 1.0
    rate: float = 1.0
    same: list[str] = field(default_factory=list)


def contrasts(tail: Sequence[Facts], body: Sequence[Facts]) -> Contrasts:
    """The slow requests' facts against the normal ones'; empty where either are fewer than ten."""
    if len(tail) < MIN_COHORT or len(body) < MIN_COHORT:
        return Contrasts((), (), (), 0)
    requests = [*tail, *body]
    numbers = _numbers(requests)
    values = _values(requests, numbers)
    for one in values:
        one.tail = (one.members & ((1 << len(tail)) - 1)).bit_count()
        one.body = one.members.bit_count() - one.tail
        # What is not worth a row still counts among what was compared: that only makes the rates stricter.
        if one.tail >= MIN_REQUESTS and one.tail / len(tail) - one.body / len(body) >= MIN_DIFFERENCE:
            one.p = more_often(one.tail, len(tail), one.body, len(body))
    compared = []
    for place, found in numbers.items():
        slow, normal = found[: len(tail)], found[len(tail) :]
        first, second = ([one for one in group if one is not None] for group in (slow, normal))
        p, dominance = larger(first, second) if min(len(first), len(second)) >= MIN_COHORT else (1.0, 0.5)
        compared.append((place, first, second, p, dominance))
    rates = false_discovery_rates([*(one.p for one in values), *(p for *_, p, _ in compared)])
    for one, rate in zip(values, rates, strict=False):
        one.rate = rate
    kept = _merged([one for one in values if one.rate <= MAX_FALSE], len(tail) + len(body))
    rows = [_row(one, tail, len(body)) for one in kept]
    return Contrasts(
        values=tuple(row for row in rows if not is_symptom(row.key))[:MAX_ROWS],
        symptoms=tuple(row for row in rows if is_symptom(row.key))[:MAX_ROWS],
        numbers=tuple(_number_rows(compared, rates[len(values) :]))[:MAX_ROWS],
        tested=len(rates),
    )


def _values(requests: Sequence[Facts], numbers: Mapping[Place, object]) -> list[_Value]:
    by_place: dict[Place, dict[str, _Value]] = defaultdict(dict)
    having: dict[Place, int] = defaultdict(int)
    for number, facts in enumerate(requests):
        for place, found in facts.values.items():
            having[place] |= 1 << number
            of = by_place[place]
            for value in found:
                if value not in of:
                    of[value] = _Value(place, value)
                of[value].members |= 1 << number
    everyone = (1 << len(requests)) - 1
    values: list[_Value] = []
    for place, of in by_place.items():
        there = having[place].bit_count()
        if len(of) > max(_ENOUGH_TO_BE_UNIQUE, _UNIQUE * there):
            continue
        if place in numbers:
            continue
        values.extend(of.values())
        missing = everyone & ~having[place]
        if missing:
            values.append(_Value(place, "", missing))
    return values


def _numbers(requests: Sequence[Facts]) -> dict[Place, list[float | None]]:
    """What is compared by rank: attributes with many different numbers, and how often each call is made."""
    found: dict[Place, list[float | None]] = {}
    for place in dict.fromkeys(place for facts in requests for place in facts.numbers):
        column = [facts.numbers.get(place) for facts in requests]
        attribute = any(place in facts.values for facts in requests)
        if not attribute or len(set(column)) > _FEW_VALUES:
            found[place] = column
    return found


def _merged(values: list[_Value], requests: int) -> list[_Value]:
    """Of values that mark the same requests the one that says most: what is there, a call, then the shortest words."""
    values.sort(
        key=lambda one: (
            one.p,
            not one.value,
            one.place.key != CALLS,
            len(one.place.key) + len(one.value),
            one.place,
            one.value,
        )
    )
    kept: list[_Value] = []
    for one in values:
        for other in kept:
            both = (one.members & other.members).bit_count()
            if both >= SAME * (one.members | other.members).bit_count():
                other.same.append(_words(one))
                break
        else:
            kept.append(one)
    return kept


def _words(one: _Value) -> str:
    return (
        f"{one.place.service}: {one.place.key} = {one.value}"
        if one.value
        else f"{one.place.service}: no {one.place.key}"
    )


def _row(one: _Value, tail: Sequence[Facts], of_body: int) -> ValueContrast:
    tail_share, body_share = one.tail / len(tail), one.body / of_body
    return ValueContrast(
        service=one.place.service,
        key=one.place.key,
        value=one.value,
        tail_share=tail_share,
        body_share=body_share,
        explained_share=(tail_share - body_share) / (1 - body_share) if body_share < 1 else 0.0,
        false_discovery_rate=one.rate,
        same_as=tuple(one.same[:MAX_SAME]),
        trace_ids=tuple(facts.trace_id for number, facts in enumerate(tail) if one.members >> number & 1)[:MAX_TRACES],
    )


def _number_rows(
    compared: Sequence[tuple[Place, list[float], list[float], float, float]], rates: Sequence[float]
) -> list[NumberContrast]:
    rows = [
        NumberContrast(
            service=place.service,
            key=place.key,
            tail_median=median(slow),
            body_median=median(normal),
            larger_share=dominance,
            false_discovery_rate=rate,
            symptom=is_symptom(place.key),
        )
        for (place, slow, normal, _, dominance), rate in zip(compared, rates, strict=True)
        if rate <= MAX_FALSE and max(dominance, 1 - dominance) >= MIN_DOMINANCE
    ]
    return sorted(rows, key=lambda row: (-abs(row.larger_share - 0.5), row.service, row.key))
