"""Where detectors must stop: just below thresholds, and next to patterns that only look alike."""

from __future__ import annotations

import pytest

from analysis.detector import detector_named
from analysis.fixes import findings_of
from analysis.reports import Finding
from analysis.span import Span
from tests.sketched import repeated, samples_of

WINDOW_NS = 3_600_000_000_000


def found(name: str, traces: list[list[Span]]) -> list[Finding]:
    detector = detector_named(name)
    assert detector is not None
    return findings_of(detector, samples_of(traces), WINDOW_NS)


def queries(count: int, *, step: float = 10, words: str = "db", text: str = "SELECT x FROM items WHERE id = $1") -> str:
    lines = [f"orders  GET /orders  0..{count * step + 20}"]
    lines += [
        f"  orders  {text}  {5 + n * step}..{5 + n * step + 8} {words.replace('#', str(n))}" for n in range(count)
    ]
    return "\n".join(lines)


def test_four_queries_are_no_n_plus_one() -> None:
    assert found("n-plus-one-queries", repeated(queries(4), 30)) == []
    assert len(found("n-plus-one-queries", repeated(queries(5), 30))) == 1


def test_concurrent_queries_are_no_loop() -> None:
    assert found("n-plus-one-queries", repeated(queries(8, step=2), 30)) == []


def test_a_number_that_varies_makes_it_certain() -> None:
    traces = [trace for n in range(20) for trace in repeated(queries(5 + n % 10), 1)]
    finding = found("n-plus-one-queries", [list(trace) for trace in renumbered(traces)])[0]
    assert finding.confidence == "high"
    assert "varies" in finding.confidence_reason
    constant = found("n-plus-one-queries", repeated(queries(6), 30))[0]
    assert constant.confidence == "medium"


def renumbered(traces: list[list[Span]]) -> list[list[Span]]:
    return [[s._replace(trace_id=f"{number:032x}") for s in trace] for number, trace in enumerate(traces)]


def test_literals_that_differ_prove_it() -> None:
    text = "SELECT x FROM items WHERE id = ?"
    finding = found("n-plus-one-queries", repeated(queries(6, words="db target=id=#", text=text), 1))[0]
    assert finding.confidence == "high"


@pytest.mark.parametrize(
    ("text", "words", "title", "snippet"),
    [
        ("SELECT x FROM items WHERE id = $1", "db", "Fetch the rows of items with one query instead of 6", "any("),
        ("INSERT INTO items (a) VALUES ($1)", "db", "Write the rows of items with one statement", "executemany"),
        ("DELETE FROM items WHERE id = $1", "db", "Write the rows of items with one statement", "executemany"),
        ("UPDATE items SET a = $1 WHERE id = $2", "db", "Write the rows of items with one statement", "executemany"),
        ("GET ?", "cache", "Fetch the keys in one round trip instead of 6", "mget"),
        ("HSET ? ? ?", "cache", "Write the keys in one round trip instead of 6", "pipeline"),
    ],
)
def test_loops_that_write_are_told_to_batch_not_to_fetch(text: str, words: str, title: str, snippet: str) -> None:
    finding = found("n-plus-one-queries", repeated(queries(6, words=words, text=text), 30))[0]
    assert finding.title.startswith(title)
    assert snippet in finding.fix.after


def test_a_redis_lock_polls_and_is_no_loop_over_rows() -> None:
    lines = ["app  GET /locked  0..400"]
    lines += [f"  app  SET ? ? ? ? ?  {5 + 50 * n}..{7 + 50 * n} cache" for n in range(6)]
    lines += ["  app  EVALSHA ? ? ?  380..382 cache"]
    assert found("n-plus-one-queries", repeated("\n".join(lines), 30)) == []


@pytest.mark.parametrize("words", ["error", "status=503"])
def test_two_retried_calls_are_too_few_and_redirects_and_polls_are_none(words: str) -> None:
    retried = f"""
    a  GET /x  0..90
      b  GET /y   5..20 {words}
      b  GET /y  21..40
    """
    assert found("retry-without-backoff", repeated(retried, 2)) == []
    assert len(found("retry-without-backoff", repeated(retried, 3))) == 1
    polled = """
    a  GET /x  0..90
      b  GET /y   5..20
      b  GET /y  21..40
    """
    assert found("retry-without-backoff", repeated(polled, 30)) == []


def test_different_urls_are_no_attempts_of_one_call() -> None:
    text = """
    a  GET /x  0..90
      b  GET /item/1   5..20 error target=http://b/item/1
      b  GET /item/2  21..40 target=http://b/item/2
    """
    assert found("retry-without-backoff", repeated(text, 30)) == []


def test_exhausted_calls_are_counted() -> None:
    text = """
    a  GET /x  0..90 error
      b  GET /y   5..20 error
      b  GET /y  21..40 error
    """
    finding = next(f for f in found("retry-without-backoff", repeated(text, 30)) if f.service == "a")
    assert "30 failed in the end" in finding.message
    assert finding.gain.p50_before_ns - finding.gain.p50_after_ns == 16_000_000


def test_overlapping_calls_are_not_serial() -> None:
    text = """
    a  GET /x  0..100
      b  GET /p   5..60
      c  GET /q  50..80
      d  GET /r  81..95
    """
    assert found("serial-calls", repeated(text, 30)) == []


def test_calls_of_one_operation_are_another_problem() -> None:
    text = """
    a  GET /x  0..100
      b  GET /p   5..30
      b  GET /p  31..60
      b  GET /p  61..95
    """
    assert found("serial-calls", repeated(text, 30)) == []


def test_a_pool_timeout_is_certain_even_once() -> None:
    text = """
    a  GET /x  0..1010 error
      a  checkout  2..1005 pool timeout
    """
    finding = found("pool-wait", repeated(text, 1))[0]
    assert finding.confidence == "high"
    assert "of the pool, not of the database" in finding.message
