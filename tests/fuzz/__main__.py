"""`python -m tests.fuzz TARGET SECONDS`: looks for inputs that break a promise; they are kept in `.fuzz`."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["app", "analysis"]):
    from tests.fuzz.targets import TARGETS, corpus

_INPUT_TIMEOUT_S = 10
_MEMORY_MB = 1_536
_MAX_INPUT_BYTES = 16_384


def main() -> None:
    """Runs libFuzzer, which ends the process: 0 where nothing was found."""
    target, seconds = sys.argv[1], int(sys.argv[2])
    found = Path(".fuzz") / target
    found.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": seconds,
        "timeout": _INPUT_TIMEOUT_S,
        "rss_limit_mb": _MEMORY_MB,
        "max_len": _MAX_INPUT_BYTES,
        "artifact_prefix": f"{Path('.fuzz') / target}-",
        "print_final_stats": 1,
    }
    arguments = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(found), str(corpus(target)), *sys.argv[3:]], TARGETS[target])
    atheris.Fuzz()


main()
