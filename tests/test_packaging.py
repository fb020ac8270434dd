"""What an installation carries, and what the Makefile and CI promise."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = {f"lorakit/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_a_wheel_would_carry_the_recipes_and_all_code():
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling, from the extra 'test'")
    builder = wheel.WheelBuilder(str(ROOT))
    with builder.config.set_build_data(
        {"artifacts": [], "force_include": {}, "force_include_editable": {}, "shared_scripts": {}, "extra_metadata": {}}
    ):
        files = {Path(file.distribution_path).as_posix() for file in builder.recurse_included_files()}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lorakit").rglob("*.py")}
    assert files >= RECIPES | code
    assert "lorakit/recipes/demo.yaml" in RECIPES
    assert not [name for name in files if name.startswith(("tests", "scripts")) or "__pycache__" in name]


@pytest.mark.slow
def test_a_built_wheel_carries_recipes_and_the_command(tmp_path):
    pytest.importorskip("hatchling", reason="needs hatchling, from the extra 'test'")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True)
    (built,) = tmp_path.glob("lorakit-*.whl")
    with zipfile.ZipFile(built) as wheel:
        names = set(wheel.namelist())
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "lorakit = lorakit.cli.app:main" in wheel.read(entry).decode()
        assert set(names) >= RECIPES
        wheel.extractall(tmp_path / "site")
    listed = subprocess.run(
        [sys.executable, "-m", "lorakit", "list", "recipes"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{os.environ['PYTHONPATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "demo" in listed.stdout


def test_the_command_is_declared_and_the_extras_exist():
    assert PROJECT["scripts"] == {"lorakit": "lorakit.cli.app:main"}
    assert {"bundled", "test"} <= set(PROJECT["optional-dependencies"])


def test_make_knows_the_promised_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "lint", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_make_says_what_it_would_do_without_doing_it(tmp_path):
    ran = subprocess.run(
        ["make", "--dry-run", "demo", f"VENV={tmp_path / 'venv'}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "-m venv" in ran.stdout
    assert "[bundled]" in ran.stdout
    assert "lorakit train demo --offline" in ran.stdout


def test_ci_is_executable_and_sound():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")
