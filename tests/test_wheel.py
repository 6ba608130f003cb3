"""The wheel is whole: installed alone, far from any checkout, it serves pages, charts and the example."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import httpx
import pytest

from app.version import version
from tests.server import environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return next(folder.glob("*.whl"))


def test_it_holds_everything_that_is_not_python_too(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for source, target in (("templates", "app/_templates"), ("static", "app/_static")):
        for file in (ROOT / source).rglob("*"):
            if file.is_file():
                assert f"{target}/{file.relative_to(ROOT / source).as_posix()}" in inside
    for file in (ROOT / "app").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            assert file.relative_to(ROOT).as_posix() in inside
    assert "app/store/migrations/0001_spans.sql" in inside
    assert "app/demo/recording.otlp.gz" in inside
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    assert not any(name.startswith("tests/") for name in inside)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The wheel in an environment of its own, with the dependencies of this one behind it."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True, timeout=60)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)],
        check=True,
        timeout=120,
    )
    # A .pth file comes after the environment's own packages, so the wheel wins over an installed checkout.
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    (site / "zz_dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    variables = environment()
    del variables["PYTHONPATH"]
    return folder, {**variables, "HOME": str(folder)}


def test_it_serves_the_example_from_anywhere(installed: tuple[Path, dict[str, str]]) -> None:
    folder, variables = installed
    command = str(folder / "venv" / "bin" / "spanwise")
    shown = subprocess.run(
        [command, "--version"], cwd=folder, env=variables, capture_output=True, text=True, check=True
    )
    assert shown.stdout == f"spanwise {version()}\n"
    where = [str(folder / "venv" / "bin" / "python"), "-c", "import app.resources as r; print(r.__file__)"]
    found = subprocess.run(where, cwd=folder, env=variables, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(folder))
    process = subprocess.Popen(
        [command, "demo", "--http-port", "0", "--grpc-port", "0"],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = re.fullmatch(r"http://localhost:\d+/\n", process.stdout.readline())
        assert url, process.stderr.read()
        with httpx.Client(base_url=url[0].strip(), trust_env=False, timeout=60) as client:
            assert "Example" in client.get("/").text
            assert client.get("/static/app.css").status_code == 200
            assert client.get("/plotly/plotly.min.js").status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()
        process.stderr.close()
