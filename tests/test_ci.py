"""With CI=true a missing server or browser is a failure; absent recordings are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import ROOT, environment

pytestmark = pytest.mark.slow

_TESTS = """
import pytest

@pytest.mark.slow
def test_browser():
    pytest.skip("no Chromium here")

@pytest.mark.slow
def test_recordings():
    pytest.skip("recorded traces are not here")

def test_other():
    pytest.skip("not on this system")
"""


@pytest.mark.parametrize(("ci", "summary"), [("true", "1 failed, 2 skipped"), ("", "3 skipped")])
def test_skips(tmp_path: Path, ci: str, summary: str) -> None:
    (tmp_path / "test_skipped.py").write_text(_TESTS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-q"),
            *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), str(tmp_path / "test_skipped.py")),
        ],
        cwd=tmp_path,
        env=environment({"CI": ci}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert summary in done.stdout.splitlines()[-1], done.stdout + done.stderr
