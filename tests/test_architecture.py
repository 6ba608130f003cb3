"""What the layout promises: pure analysis, imports one way, one place each for environment and SQL, all documented."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.routing import Route

from app.main import create_app
from app.settings import settings_from
from tests.server import environment

ROOT = Path(__file__).parents[1]
APP = sorted((ROOT / "app").rglob("*.py"))
ANALYSIS = sorted((ROOT / "analysis").rglob("*.py"))


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def attributes_used(file: Path) -> Iterator[str]:
    """`name.attribute` and `.attribute(` as they stand in a file's code, comments and texts left out."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            yield f"{owner}.{node.attr}"


def test_imports_go_one_way() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kept, 0 broken" in done.stdout


def test_analysis_loads_the_standard_library_and_numpy_only() -> None:
    modules = [module_name(file) for file in ANALYSIS]
    assert len(modules) > 20
    program = (
        "import sys, importlib\n"
        "before = set(sys.modules)\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(' '.join(sorted(loaded - set(sys.stdlib_module_names))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert set(done.stdout.split()) <= {"analysis", "numpy"}


def test_the_environment_is_read_in_the_settings_only() -> None:
    readers = {
        module_name(file)
        for file in (*APP, *ANALYSIS)
        if {"os.environ", "os.getenv", "os.environb"} & set(attributes_used(file))
    }
    assert readers == {"app.settings"}


def test_sql_is_executed_in_the_store_only() -> None:
    executing = {
        module_name(file)
        for file in (*APP, *ANALYSIS)
        if any(used.endswith((".execute", ".executemany")) for used in attributes_used(file))
    }
    assert executing
    assert all(name.startswith("app.store.") for name in executing)
    importing = {module_name(file) for file in APP if re.search(r"^\s*(import|from) duckdb\b", file.read_text(), re.M)}
    assert all(name.startswith("app.store.") for name in importing)


def test_templates_escape_everything() -> None:
    templates = sorted((ROOT / "templates").glob("*.html"))
    assert templates
    for template in templates:
        text = template.read_text()
        assert not re.search(r"\|\s*safe\b", text), template.name
        assert "autoescape" not in text, template.name
        assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*type=\"application/json\")[^>]*>", text), template.name
        assert not re.search(r"\son[a-z]+=|\sstyle=", text), template.name
    for file in APP:
        assert "Markup(" not in file.read_text(), file


def test_every_module_says_what_it_is_for() -> None:
    for file in (*APP, *ANALYSIS):
        tree = ast.parse(file.read_text())
        if tree.body:
            summary = (ast.get_docstring(tree) or "").split("\n\n")[0]
            assert re.search(r"[.:]$", summary), f"{module_name(file)} has no summary: {summary!r}"


def test_modules_stay_small() -> None:
    long = {
        module_name(file): lines for file in (*APP, *ANALYSIS) if (lines := len(file.read_text().splitlines())) > 500
    }
    assert not long


def documented_paths() -> list[str]:
    """Paths that programs use; pages document themselves."""
    routes = [route.path for route in create_app(settings_from({"HOME": "/h"})).routes if isinstance(route, Route)]
    return [path.replace(":int", "") for path in routes if path.startswith(("/api", "/healthz", "/readyz", "/metrics"))]


@pytest.mark.parametrize("path", documented_paths())
def test_every_path_for_programs_is_in_the_readme(path: str) -> None:
    assert re.search(re.escape(path) + r"[`? ]", (ROOT / "README.md").read_text())


def test_the_readme_names_ports_and_variables_that_work() -> None:
    readme, settings = (ROOT / "README.md").read_text(), settings_from({"HOME": "/h"})
    assert f"http://localhost:{settings.http_port}" in readme
    assert f"http://localhost:{settings.grpc_port}" in readme
    for name in set(re.findall(r"SPANWISE_[A-Z_]+", readme)):
        assert name.removeprefix("SPANWISE_").lower() in vars(settings)
