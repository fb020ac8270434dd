"""What the shell completes, and that nobody waits for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lorakit.cli.completion import (
    OF_REGISTRY,
    WITH_CARD,
    complete_recipe,
    complete_recipe_or_run_or_setting,
    complete_run,
    complete_setting,
    complete_shown,
    complete_task,
    names_in,
    values_of,
)
from lorakit.recipe.keys import recipe_keys
from lorakit.registry import find_registry

HEAVY = {"torch", "transformers", "datasets", "numpy", "matplotlib", "lorakit.workflow"}
NOTHING = SimpleNamespace(params={})


def shell(words: str, typed: str, folder: Path) -> list[str]:
    """What bash would be told for ``lorakit WORDS TYPED``."""
    line = ["lorakit", *words.split(), typed]
    env = {"_LORAKIT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
    ran = subprocess.run(
        [sys.executable, "-m", "lorakit"], env={**os.environ, **env}, capture_output=True, text=True, cwd=folder
    )
    return ran.stdout.split()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs, one of own data, and what is no run."""
    monkeypatch.chdir(tmp_path)
    for name, called in (("runs/demo-0", ""), ("runs/reviews-0", "reviews"), ("other/run-1", "")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "recipe.yaml").touch()
        (tmp_path / name / "task.json").write_text(json.dumps({"called": called}))
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "task.json").write_text("[")
    return tmp_path


@pytest.mark.parametrize("registry", sorted({*WITH_CARD, *OF_REGISTRY.values()}))
def test_the_names_of_files_are_those_that_register(registry: str):
    assert names_in(registry) == find_registry(registry).names()


def test_keys_and_their_values():
    assert complete_setting(NOTHING, "adapter.ra") == ["adapter.rank="]
    assert complete_setting(NOTHING, "") == [f"{path}=" for path in recipe_keys()]
    assert complete_setting(NOTHING, "adapter.method=dor") == ["adapter.method=dora"]
    assert complete_setting(NOTHING, "training.schedule=") == [
        f"training.schedule={word}" for word in ("linear", "cosine", "constant")
    ]
    assert complete_setting(NOTHING, "run.offline=t") == ["run.offline=true"]
    assert complete_setting(NOTHING, "training.lr=") == ["training.lr=auto"]
    assert complete_setting(NOTHING, "training.epochs=") == complete_setting(NOTHING, "no.key=") == []
    for path, key in recipe_keys().items():
        if path in OF_REGISTRY:
            assert sorted(values_of(path)) == sorted(key.choices)


@pytest.mark.parametrize(("given", "typed"), [(("adapter.method", "="), "dor"), (("adapter.method",), "=")])
def test_bash_takes_a_setting_apart(given: tuple[str, ...], typed: str):
    """Its words end at =, so that KEY=VAL arrives as KEY, = and VAL; what comes back is put behind the =."""
    found = complete_setting(SimpleNamespace(params={"overrides": given}), typed)
    assert "dora" in found
    assert ("lora" in found) == (typed == "=")


def test_runs_recipes_and_tasks(runs: Path):
    assert complete_run("") == complete_run("ru") == ["runs/demo-0", "runs/reviews-0"]
    assert complete_run("runs/de") == ["runs/demo-0"]
    assert complete_run("other/") == ["other/run-1"]
    assert complete_run("[") == []
    assert complete_recipe("de") == ["demo"]
    assert complete_recipe("runs/r") == ["runs/reviews-0"]
    assert complete_task("r") == ["rotten_tomatoes", "rte", "reviews", "runs/demo-0", "runs/reviews-0"]
    assert complete_recipe_or_run_or_setting(NOTHING, "training.cli") == ["training.clip="]


def test_show_takes_recipes_cards_and_keys(runs: Path):
    assert complete_shown("gradn") == ["gradnorm"]
    assert complete_shown("cus") == ["custom"]
    assert complete_shown("training.len") == ["training.length_grouping"]
    assert "training" in complete_shown("tr")


def test_a_shell_is_answered(runs: Path):
    assert shell("train demo", "adapter.ra", runs) == ["adapter.rank="]
    assert shell("eval --run", "runs/d", runs) == ["runs/demo-0"]


def test_completing_imports_nothing_heavy(runs: Path):
    code = (
        "import sys; from types import SimpleNamespace; import lorakit.cli.app; from lorakit.cli.completion import *;"
        "complete_setting(SimpleNamespace(params={}), 'adapter.method='); complete_shown('l'); complete_task('m');"
        "complete_recipe('d'); complete_combination('t'); complete_proxy('g'); print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(ran.stdout.split()) & HEAVY
