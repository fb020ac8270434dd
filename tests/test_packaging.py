"""What an installation carries, and what the Makefile and CI promise."""

import os
import re
import shlex
import shutil
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


def test_make_says_what_it_would_do_without_doing_it():
    ran = subprocess.run(
        ["make", "--dry-run", "demo", "VENV=build/not-there"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "-m venv" in ran.stdout
    assert "[bundled]" in ran.stdout
    assert "lorakit train demo --offline" in ran.stdout
    assert not (ROOT / "build" / "not-there").exists()


def test_make_refuses_an_environment_with_spaces_in_its_path():
    spaces = ["make", "demo", "VENV=my venv"]
    ran = subprocess.run(
        spaces, cwd=ROOT, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, "VENV is 'my venv'" in ran.stderr) == (2, True)


def test_ci_is_executable_and_sound():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")


def program(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")), encoding="utf-8")
    path.chmod(0o755)


def test_an_environment_finds_its_folder_in_every_locale_and_after_a_move(tmp_path):
    """Python 3.11 reads .pth files in the locale's encoding, and does not start where it cannot."""
    folder, site = tmp_path / "my projekt-ü", Path(".venv", "lib", "python3.11", "site-packages")
    installs = f"mkdir -p {site} && pwd > {site}/_editable_impl_lorakit.pth"  # as pip does with -e
    program(
        folder / ".venv" / "bin" / "python",
        f'if [ "$2" = pip ]; then {installs}; else exec {shlex.quote(sys.executable)} "$@"; fi',
    )
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    environment = {**os.environ, "LC_ALL": "C"}
    subprocess.run(["make", ".venv/.installed-test"], cwd=folder, env=environment, check=True, capture_output=True)
    moved = folder.rename(tmp_path / "moved-ß")
    found = "import site, sys; site.addsitedir(sys.argv[1]); print(ascii(sys.path[-1]))"
    ran = subprocess.run(
        [sys.executable, "-c", found, str(moved / site)], env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout == ascii(str(moved)) + "\n"


def test_an_environment_that_could_not_be_made_is_made_at_the_next_call(tmp_path):
    """As on Debian until python3-venv is installed: what is left has a Python, but no pip."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    program(tmp_path / "fails", 'if [ "$2" = venv ]; then mkdir -p .venv/bin && touch .venv/bin/python && exit 1; fi')
    ran = subprocess.run(["make", "PYTHON=./fails", ".venv/bin/python"], cwd=tmp_path, capture_output=True, check=False)
    assert ran.returncode != 0
    assert not (tmp_path / ".venv" / "bin" / "python").exists()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_ci_tests_a_clone_named_lorakit_and_leaves_nothing(tmp_path):
    folder, scratch = tmp_path / "my projekt-ü", tmp_path / "my scratch"
    scratch.mkdir()
    (folder / ".ci").mkdir(parents=True)
    (tmp_path / "shared" / "glue").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    program(tmp_path / "bin" / "make", "pwd", 'echo "$LORAKIT_GLUE_DIR"', 'echo "3 failed"', "exit 3")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(scratch)}

    def ran() -> list[str]:
        done = subprocess.run(
            ["bash", folder / ".ci" / "run"], env=environment, capture_output=True, text=True, encoding="utf-8"
        )
        assert done.returncode == 3
        assert list(scratch.iterdir()) == []
        return done.stdout.splitlines()

    glue = str((tmp_path / "shared" / "glue").resolve())
    assert ran() == [str(folder.resolve()), glue, "3 failed"]
    git = [
        "git",
        "-C",
        str(folder),
        "-c",
        "user.name=N",
        "-c",
        "user.email=n@example.org",
        "-c",
        "commit.gpgsign=false",
    ]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "one"]):
        subprocess.run([*git, *words], env=environment, check=True)
    place, *rest = ran()
    assert rest == [glue, "3 failed"]
    assert (Path(place).name, Path(place).parent.parent) == ("lorakit", scratch.resolve())
