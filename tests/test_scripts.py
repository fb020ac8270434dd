"""Scripts stand on the package alone: nothing of the tests, and no name that has moved."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
WITH_HELP = [path for path in SCRIPTS if "argparse" in path.read_text(encoding="utf-8")]
OF_TESTS = {"tests", "conftest", *(path.name for path in (ROOT / "tests").iterdir() if path.is_dir())}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(module, names taken from it) of every import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", [alias.name for alias in node.names]


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_nothing_of_the_tests_is_imported(path: Path):
    assert [module for module, _ in imports(path) if module.partition(".")[0] in OF_TESTS] == []
    assert "tests" not in [  # nor put on the path
        node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_what_is_imported_from_the_package_is_there(path: Path):
    ours = [(module, names) for module, names in imports(path) if module.partition(".")[0] == "lorakit"]
    missing = [
        f"{module}.{name}"
        for module, names in ours
        for name in names
        if not hasattr(importlib.import_module(module), name) and importlib.util.find_spec(f"{module}.{name}") is None
    ]
    assert missing == []


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_HELP, ids=name_of)
def test_every_script_has_help(path: Path):
    told = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("usage:")


def test_tables_are_written_from_the_package_beside_them(tmp_path: Path):
    for name, content in (
        ("scripts/readme_tables.py", (ROOT / "scripts" / "readme_tables.py").read_text(encoding="utf-8")),
        ("lorakit/__init__.py", "raise SystemExit('the one beside it')"),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content, encoding="utf-8")
    script = [sys.executable, str(tmp_path / "scripts" / "readme_tables.py")]
    told = subprocess.run(script, capture_output=True, text=True, check=False)
    assert told.stderr.strip() == "the one beside it"
