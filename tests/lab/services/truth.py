"""What a service counted itself, independent of tracing; written once when the service stops."""

import json
from collections import Counter, defaultdict
from pathlib import Path

from tests.lab.services.environment import SCRATCH, SERVICE

counts: Counter[str] = Counter()
_values_ms: defaultdict[str, list[float]] = defaultdict(list)


def observe(name: str, value_ms: float) -> None:
    """Remember one duration."""
    _values_ms[name].append(value_ms)


def write() -> None:
    """Write counts and the distribution of each duration as JSON into the run's scratch folder."""
    distributions = {}
    for name, values in sorted(_values_ms.items()):
        values.sort()
        distributions[name] = {
            "n": len(values),
            "p50_ms": round(values[len(values) // 2], 1),
            "p99_ms": round(values[int(len(values) * 0.99)], 1),
            "max_ms": round(values[-1], 1),
            "over_50_ms": sum(value > 50 for value in values),
        }
    text = json.dumps({"counts": dict(sorted(counts.items())), "durations": distributions})
    Path(SCRATCH, f"truth-{SERVICE}.json").write_text(text)
