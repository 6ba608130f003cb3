"""Attribute values survive the way through JSON text."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.otlp.attributes import MAX_DEPTH, TOO_DEEP, AttributeValue, attributes_from_json, attributes_json

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(["$bytes", "$double", "$map"])
_SCALARS = (
    _TEXTS
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.sampled_from([-0.0, 5e-324, 1e16, 1e300, float("nan"), float("inf")])
    | st.binary(max_size=20)
    | st.none()
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4), max_leaves=12
)
MAPS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(_TEXTS, VALUES, max_size=6)


def same(left: object, right: object) -> bool:
    """Equality that also looks at types, NaN and the sign of zero."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float) and isinstance(right, float):
        return (math.isnan(left) and math.isnan(right)) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return left == right


@given(MAPS)
def test_round_trip(attributes: dict[str, AttributeValue]) -> None:
    text = attributes_json(attributes)
    assert same(attributes_from_json(text), attributes)
    assert attributes_json(attributes_from_json(text)) == text


@given(MAPS)
def test_text_is_strict_json_in_utf8(attributes: dict[str, AttributeValue]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(attributes_json(attributes).encode(), parse_constant=refuse)


@given(MAPS)
def test_order_of_keys_does_not_matter(attributes: dict[str, AttributeValue]) -> None:
    assert attributes_json(dict(reversed(attributes.items()))) == attributes_json(attributes)


def test_lone_surrogates_are_replaced() -> None:
    text = attributes_json({"a\ud800": "x\udfffy", "list": ["\ud83d"]})
    assert text.encode()
    assert attributes_from_json(text) == {"a\ufffd": "x\ufffdy", "list": ["\ufffd"]}


def test_pairs_of_surrogates_are_kept_as_their_character() -> None:
    assert attributes_from_json(attributes_json({"a": "\U0001f600é\ufffd"})) == {"a": "\U0001f600é\ufffd"}


def test_values_nested_too_deep_leave_a_text() -> None:
    deep: AttributeValue = "bottom"
    for _ in range(100_000):
        deep = [deep]
    read: Any = attributes_from_json(attributes_json({"deep": deep}))["deep"]
    depth = 0
    while isinstance(read, list):
        depth, read = depth + 1, read[0]
    assert (depth, read) == (MAX_DEPTH, TOO_DEEP)


def test_the_accepted_depth_is_kept_whole() -> None:
    deep: AttributeValue = "bottom"
    for _ in range(MAX_DEPTH):
        deep = {"k": deep}
    assert attributes_from_json(attributes_json({"deep": deep})) == {"deep": deep}
