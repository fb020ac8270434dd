"""The command line where folders have any name, there is no home to write into, and the locale is another one."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ODD = "my projekt-ü, it's #1 [x] {y} & $HOME"
ALL = """
import json, os, sys
os.umask(0o077)
from lorakit.cli.app import main
for words in json.loads(sys.argv[1]):
    assert main(words) == 0, words
"""
SURROUNDINGS = [
    pytest.param({"HOME": "/dev/null", "LC_ALL": "C"}, id="a HOME that cannot be written, C"),
    pytest.param({"LC_ALL": "tr_TR.UTF-8"}, id="no HOME, a language that may not be there", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_a_run_from_its_training_to_its_use(tmp_path: Path, surroundings: dict[str, str]) -> None:
    from support.models import TinyModels
    from support.runs import Bench

    folder = tmp_path / ("n" * 200) / ODD
    scratch = folder / "tmp"
    scratch.mkdir(parents=True)
    recipe = Bench(folder, TinyModels(folder / "models")).load("training.epochs=1").path
    run = folder / "runs" / "small-0"
    (folder / "texts.txt").write_text("a gööd film\n", encoding="utf-8")
    commands = [
        ["train", str(recipe), "training.epochs=1", f"run.folder={folder / 'runs'}"],
        ["eval", "custom", "--run", str(run)],
        ["report", str(run)],
        ["merge", str(run)],
        ["predict", str(run / "merged"), "texts.txt"],
        ["export", str(run), "--out", "exported"],
        ["search", str(recipe), "search.method=heterolora", "search.batches=1", "--emit", "found it.yaml"],
        ["plan", "found it.yaml"],
    ]
    gone = ("HOME", "LANG", "LC_ALL", "LANGUAGE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    environment = {**kept, "TMPDIR": str(scratch), **surroundings}
    done = subprocess.run(
        [sys.executable, "-c", ALL, json.dumps(commands)], cwd=folder, env=environment, capture_output=True, check=False
    )
    out, told = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, told
    assert "matplotlib" not in told.lower()
    assert {path.name for path in folder.iterdir()} == {
        *("data", "exported", "found it.yaml", "models", "recipes", "runs", "texts.txt", "tmp")
    }
    assert "happy" in out or "plain" in out
    following = [shlex.split(line) for line in told.splitlines() if line.startswith("  lorakit ")]
    assert ["lorakit", "merge", str(run)] in following
    assert ["lorakit", "train", "found it.yaml"] in following
