"""Re-timing: exact on fork and join, the identity without an edit, never slower than before."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given

from analysis.node import Node
from analysis.quantiles import sample_quantile
from analysis.retime import Edit, retimed_duration_ns
from analysis.span import Span
from analysis.trace import build_trace
from tests.random_traces import random_traces, span
from tests.sketched import drawn_request

MS = 1_000_000


def child(root: Node, name: str) -> int:
    return next(node.span.span_id for node in root.walk() if node.span.name == name)


def test_halving_one_branch_makes_another_one_limiting() -> None:
    root = drawn_request(
        """
        a  root   0..100
          a  A   5..15
          a  B  15..65
          a  C  15..45
          a  E  70..95
        """
    )
    assert retimed_duration_ns(root, Edit(durations_ns={child(root, "B"): 20 * MS})) == 80 * MS


def test_calls_that_start_together_take_as_long_as_the_longest() -> None:
    root = drawn_request(
        """
        a  root   0..100
          a  A   5..35
          a  B  40..80
          a  C  80..95
        """
    )
    first = child(root, "A")
    edit = Edit(starts_with={child(root, "B"): first, child(root, "C"): first})
    assert retimed_duration_ns(root, edit) == (5 + 40 + 5) * MS


def test_a_removed_attempt_takes_its_pause_with_it() -> None:
    root = drawn_request(
        """
        a  root   0..100
          a  A   10..30
          a  B   50..90
        """
    )
    edit = Edit(durations_ns={child(root, "A"): 0}, no_gap_before=frozenset({child(root, "B")}))
    assert retimed_duration_ns(root, edit) == (10 + 40 + 10) * MS


def test_a_saving_below_a_remote_call_reaches_the_caller() -> None:
    root = drawn_request(
        """
        a  GET /x  0..100
          b  GET /y  10..90
            b  SELECT 1  20..80 db
        """
    )
    query = next(node.span.span_id for node in root.walk() if node.span.operation_class == "database")
    assert retimed_duration_ns(root, Edit(durations_ns={query: 10 * MS})) == 50 * MS


@given(random_traces(max_spans=20))
def test_without_an_edit_nothing_moves(spans: list[Span]) -> None:
    for root in build_trace(spans).roots:
        for node in root.walk():
            assert retimed_duration_ns(node, Edit()) == node.duration_ns


@given(random_traces(max_spans=15))
def test_shorter_spans_never_make_a_request_slower(spans: list[Span]) -> None:
    for root in build_trace(spans).roots:
        for node in root.walk():
            after = retimed_duration_ns(root, Edit(durations_ns={node.span.span_id: node.duration_ns // 2}))
            assert 0 <= after <= root.duration_ns


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_simulated_truth_of_a_fork_and_join(seed: int) -> None:
    """A → max(B, C, D) → E with lognormal times; the fix halves B; truth is the same draws with B halved."""
    draws = random.Random(seed)
    before, after, truth = [], [], []
    for _ in range(3000):
        a, b, c, d, e = (int(draws.lognormvariate(mean, 0.8) * MS) for mean in (1.5, 2.5, 2.4, 2.2, 1.5))
        fork = a + 1000
        join = fork + max(b, c, d) + 2000
        root = span(1, 0, 0, join + e + 3000)
        children = [
            span(2, 1, 500, a),
            span(3, 1, fork, fork + b),
            span(4, 1, fork, fork + c),
            span(5, 1, fork, fork + d),
            span(6, 1, join, join + e),
        ]
        if a <= 500:
            continue
        tree = build_trace([root, *children]).roots[0]
        before.append(root.duration_ns)
        after.append(retimed_duration_ns(tree, Edit(durations_ns={3: b // 2})))
        truth.append(fork + max(b // 2, c, d) + 2000 + e + 3000)
    for q in (0.5, 0.99):
        predicted = sample_quantile(sorted(before), q) - sample_quantile(sorted(after), q)
        real = sample_quantile(sorted(before), q) - sample_quantile(sorted(truth), q)
        # Branches that end within 1 % of the parent of E's start count as before it; so does every branch here.
        assert predicted == pytest.approx(real, rel=0.02)


def test_serial_loop_of_equal_calls() -> None:
    spans = [span(1, 0, 0, 100), *(span(n, 1, 10 * (n - 1), 10 * (n - 1) + 8) for n in range(2, 9))]
    tree = build_trace(spans).roots[0]
    gaps = sum(after.start_ns - before.end_ns for before, after in pairwise(spans[1:]))
    edit = Edit(durations_ns=dict.fromkeys(range(3, 9), 0))
    assert retimed_duration_ns(tree, edit) == 10 + 8 + gaps + (100 - spans[-1].end_ns)
