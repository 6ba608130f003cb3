"""How often the service at fault is named first: `python -m tests.bench.accuracy --data DIR`.

DIR holds OTLP files and `labels.jsonl`, one fault a line: `files` and `start_unix` of the fault, `normal_file` to
compare with, `culprit_service`, `fault_type`. Ranks are strict (a tie costs); a culprit without a span counts as not
found. Where DIR's neighbour `baseline_rca.json` has the same faults, its methods are printed beside.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.endpoint_reports import Suspect
from analysis.node import Node
from analysis.sample import linked_traces
from analysis.span import Window
from analysis.suspects import suspects
from app.formats.importing import read_file
from app.store import open_store

_DATA = Path(__file__).parents[2] / "../shared/data/onlineboutique"
_DEPTH = 5
_TRACES_AT_ONCE = 2_000


@dataclass(frozen=True)
class Case:
    """One labelled fault with the rank of its culprit."""

    fault_id: str
    fault_type: str
    culprit: str
    candidates: int
    rank: int | None


def requests_of(files: Sequence[Path], from_ns: int = 0) -> list[Node]:
    """The roots of all traces in some files, imported as an upload is; those that start at `from_ns` or later."""
    store = open_store(":memory:")
    roots: list[Node] = []
    try:
        for path in files:
            found = read_file(path)
            dataset = store.import_dataset(path.name, "upload", path.name, found.format_name, found.batches)
            with store.read(dataset.dataset_id, Window(0, 2**63 - 1), 600.0) as spans:
                ids = [row[0] for row in spans.rows(_TRACE_IDS)]
                for first in range(0, len(ids), _TRACES_AT_ONCE):
                    for trace in linked_traces(spans, ids[first : first + _TRACES_AT_ONCE]).values():
                        roots.extend(root for root in trace.roots if root.span.start_ns >= from_ns)
    finally:
        store.close()
    return roots


_TRACE_IDS = """
    select replace(trace_id::varchar, '-', '') from trace_spans group by trace_id order by min(start_ns), trace_id
"""


def ranked(label: dict[str, Any], folder: Path) -> tuple[Case, tuple[Suspect, ...]]:
    """Where the culprit of one fault stands."""
    usual = requests_of([folder / label["normal_file"]])
    now = requests_of([folder / name for name in label["files"]], round(label["start_unix"] * 1e9))
    found = suspects(usual, now)
    scores = {one.service: one.score for one in found}
    culprit = label["culprit_service"]
    rank = None
    if culprit in scores:
        rank = 1 + sum(score >= scores[culprit] for service, score in scores.items() if service != culprit)
    return Case(label["fault_id"], label["fault_type"], culprit, len(found), rank), found


def accuracy(cases: Sequence[Case], depth: int) -> float:
    """AC@k: the share of faults whose culprit is among the first `depth`."""
    return sum(case.rank is not None and case.rank <= depth for case in cases) / len(cases)


def summary(cases: Sequence[Case]) -> dict[str, float]:
    """AC@1, AC@3, AC@5, Avg@5, and what chance alone would reach at 1."""
    each = [accuracy(cases, depth) for depth in range(1, _DEPTH + 1)]
    return {
        "ac1": round(each[0], 4),
        "ac3": round(each[2], 4),
        "ac5": round(each[4], 4),
        "avg5": round(sum(each) / _DEPTH, 4),
        "chance1": round(sum(1 / case.candidates for case in cases) / len(cases), 4),
        "n": len(cases),
    }


def _line(name: str, figures: dict[str, float]) -> str:
    accuracies = "  ".join(f"{100 * figures[name]:5.1f}" for name in ("ac1", "ac3", "ac5"))
    return f"{name:44} {accuracies}  {figures['avg5']:.3f}"


def _baselines(folder: Path, faults: int) -> list[tuple[str, dict[str, float]]]:
    path = folder.parent / "baseline_rca.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())["results"]["all"]
    if found["n"] != faults:
        return []
    names = {"AC@1": "ac1", "AC@3": "ac3", "AC@5": "ac5", "Avg@5": "avg5"}
    return [(method, {names[name]: value for name, value in of.items()}) for method, of in found["methods"].items()]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, default=_DATA, metavar="DIR")
    arguments.add_argument("--verbose", action="store_true", help="the suspects of each fault that is not named first")
    options = arguments.parse_args()
    folder: Path = options.data
    labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines() if line.strip()]
    with ProcessPoolExecutor() as pool:
        results = list(pool.map(ranked, labels, [folder] * len(labels)))
    cases = [case for case, _ in results]
    print(f"{'AC@k in %, strict ranks':44}     1      3      5  Avg@5")
    for method, figures in _baselines(folder, len(cases)):
        print(_line(method, figures))
    print(_line("Spanwise", summary(cases)))
    for kind in dict.fromkeys(case.fault_type for case in cases):
        of = [case for case in cases if case.fault_type == kind]
        print(_line(f"  {kind} ({len(of)})", summary(of)))
    for case, found in results:
        if case.rank != 1 and options.verbose:
            print(f"{case.fault_id} {case.culprit} {case.fault_type}: rank {case.rank}")
            for one in found[:_DEPTH]:
                print(
                    f"    {one.service}: score {one.score:.2f}, z {one.z:.2f}, {one.cost_ns / 1e6:+.1f} ms a request, "
                    f"stops {one.stops:.0%}, fails {one.fails:.0%}"
                )
    print(json.dumps(summary(cases)))


if __name__ == "__main__":
    main()
