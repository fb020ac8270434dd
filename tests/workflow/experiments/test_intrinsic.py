"""Intrinsic dimension: sides that differ in the subspace alone, and the smallest that is enough, from scores that are a formula."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.pretended import log
from support.runs import SEARCH, Bench

import lorakit
from lorakit.artifacts.files import read_json, write_text
from lorakit.artifacts.run import Run
from lorakit.errors import UsageError
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.workflow.experiments import elsewhere, workers
from lorakit.workflow.experiments.intrinsic import IntrinsicRequest, resolve

FULL = {0: 0.80, 1: 0.90}  # mean 0.85, 90 % of it 0.765
SAID = {8: (0.70, 0.72), 16: (0.74, 0.78), 64: (0.78, 0.84)}  # means 0.71, 0.76, 0.81
GIVEN: dict[str, Any] = {"lr": [0.03], "full_lr": [1e-4]}
DID = {8: (0.60, 0.62), 16: (0.62, 0.66), 64: (0.70, 0.74)}
FROZEN = 0.65  # and 0.9 of the gain: 0.65 + 0.9 * 0.20 = 0.83


def pretend(loaded: LoadedRecipe, *, run_dir: Path, resume: bool, hooks: Any) -> None:
    """In place of a training: writes what says that there was one."""
    run, recipe = Run(run_dir), loaded.recipe
    write_text(run.recipe, loaded.to_yaml())
    with (run_dir.parent / "log").open("a") as file:
        file.write(f"0 {run_dir.name}\n")
    whole, seed, rank = recipe.adapter.method == "full", recipe.run.seed, recipe.adapter.rank or 0
    scalars = recipe.adapter.options.get("per_layer") == "true"
    value = FULL[seed] if whole else (SAID if scalars else DID)[rank][seed]
    if recipe.task.holdout:
        value = 1 - abs(math.log10(float(recipe.training.lr) / (1e-4 if whole else 0.1)))
    told: dict[str, Any] = {"name": "frozen", "title": "", "scores": {"accuracy": FROZEN}, "note": ""}
    run.write_summary(
        {
            "task": recipe.task.name,
            "metric": "accuracy",
            "last": {"accuracy": value},
            "best": {"accuracy": value},
            "adapter_parameters": 5000 if whole else rank,
            "head_parameters": 66,
            "steps": 6,
            "epochs": 1.0,
            "seconds": 1.0,
            "seed": seed,
            "baselines": [told] if whole else [],
        }
    )


@pytest.fixture
def pretending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "train", pretend)


def test_the_smallest_subspace_that_is_enough(small: str, pretending: None, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"dimensions": [8, 16, 64], "seeds": [0, 1], "folder": tmp_path, **GIVEN}
    found = lorakit.intrinsic_dimension(small, **asked, table=tmp_path / "all.csv")
    assert (tmp_path / "all.csv").read_text().count("\n") == 1 + 7 * 2
    assert found.d90 == {"said": 64, "did": None}
    assert found.d90_of_gain == {"said": None, "did": None}
    assert found.d90_by_seed == {"said": {0: 16, 1: 64}, "did": {0: None, 1: None}}  # from 0.72 and from 0.81
    assert (found.curve.full, found.curve.frozen, found.curve.majority) == (FULL, FROZEN, None)
    assert found.curve.aim == pytest.approx(0.765)
    assert found.curve.aim_of_gain == pytest.approx(0.83)
    written = read_json(tmp_path / "intrinsic.json")
    assert written["d90"] == {"said": 64, "did": None}
    assert found.figure.read_bytes().startswith(b"\x89PNG")
    assert "90 % of full" not in found.page.read_text()  # letters of a figure are outlines
    told = " ".join(sentence for passage in found.summary for sentence in passage.sentences)
    assert "SAID, a scalar a layer: d90 is 64, with 0.8100." in told
    assert "DID, without: no subspace of up to 64 is enough; the best, of 64, has 0.7200." in told


def test_sides_differ_in_the_subspace_alone(bench: Bench, pretending: None, tmp_path: Path) -> None:
    recipe = bench.load(*SEARCH, "training.batch_size=5", "adapter.dropout=0.2", name="searched_one")
    asked: dict[str, Any] = {"kinds": ["said"], "seeds": [1], "folder": tmp_path, "offline": True, **GIVEN}
    lorakit.intrinsic_dimension(recipe, dimensions=[8], **asked)
    assert log(tmp_path) == ["searched_one-full-1", "searched_one-said-8-1"]
    full, said = (load_recipe(tmp_path / name).recipe for name in log(tmp_path))
    lorakit.intrinsic_dimension(recipe, dimensions=[8, 16], **asked)
    assert log(tmp_path)[2:] == ["searched_one-said-16-1"]  # what is trained is not trained again
    assert (said.adapter.method, said.adapter.rank, said.adapter.options) == ("intrinsic", 8, {"per_layer": "true"})
    assert (full.training.lr, said.training.lr) == (1e-4, 0.03)
    assert full.training.head_lr == said.training.head_lr == 1e-3
    for side in (full, said):
        assert (side.search.method, side.adapter.shortcuts, side.adapter.dropout) == ("none", [], 0.0)
        assert (side.task, side.model, side.training.batch_size) == (recipe.recipe.task, recipe.recipe.model, 5)
    assert (full.evaluation.baselines, said.evaluation.baselines) == (["majority", "frozen"], [])


def test_every_side_has_the_rate_that_is_best_on_held_out_training_rows(
    small: str, pretending: None, tmp_path: Path
) -> None:
    found = lorakit.intrinsic_dimension(small, dimensions=[8], kinds=["did"], seeds=[1, 0], folder=tmp_path)
    assert found.rates == {"small-full": 1e-4, "small-did-8": 0.1}
    trials = [name for name in log(tmp_path) if "-lr-" in name]
    assert trials == log(tmp_path)[:6]
    assert trials[:3] == ["small-full-lr-3e-05-1", "small-full-lr-0.0001-1", "small-full-lr-0.0003-1"]
    assert log(tmp_path)[6:] == ["small-full-1", "small-did-8-1", "small-full-0", "small-did-8-0"]
    assert {load_recipe(tmp_path / name).recipe.task.holdout for name in trials} == {0.2}
    assert {load_recipe(tmp_path / name).recipe.task.holdout for name in log(tmp_path)[6:]} == {None}
    told = found.summary[-1].sentences[-1]
    assert "those of small-did-8 are the lowest or the highest that was tried" in told


def test_numbers_may_be_numpys(small: str, pretending: None, tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "dimensions": np.array([8, 16]),
        "kinds": ["did"],
        "seeds": np.arange(2),
        "folder": tmp_path,
    }
    found = lorakit.intrinsic_dimension(small, **asked, lr=np.array([0.03]), full_lr=np.logspace(-4, -3, 1))
    assert found.rates == {"small-full": 1e-4, "small-did-8": 0.03, "small-did-16": 0.03}
    assert set(found.curve.full) == {0, 1}


def test_other_rates_than_those_of_runs_that_are_there_are_refused_before_anything_is_trained(
    small: str, pretending: None, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"dimensions": [8], "kinds": ["did"], "seeds": [0], "folder": tmp_path}
    lorakit.intrinsic_dimension(small, **asked, **GIVEN)
    before = log(tmp_path)
    with pytest.raises(UsageError, match=r"differs in training\.lr"):
        lorakit.intrinsic_dimension(small, **asked, lr=[0.3], full_lr=[1e-5, 1e-4])
    with pytest.raises(UsageError, match=r"differs in training\.lr"):
        lorakit.intrinsic_dimension(small, **asked, lr=[0.1, 0.3], full_lr=[1e-4])
    assert log(tmp_path) == before


def test_no_rate_is_chosen_while_another_worker_tries_one(
    small: str, pretending: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best of the others would be another one than that worker chooses."""
    kept = workers.train_missing

    def without_one(wanted: list[Any], *given: Any, **options: Any) -> Any:
        theirs = [entry for entry in wanted if entry.run.path.name == "small-did-8-lr-0.1-0"]
        failed, missing = kept([entry for entry in wanted if entry not in theirs], *given, **options)
        return failed, [*missing, *(workers.Missing(str(entry.run.path), "theirs") for entry in theirs)]

    monkeypatch.setattr(elsewhere, "train_missing", without_one)
    found = lorakit.intrinsic_dimension(
        small, dimensions=[8, 16], kinds=["did"], seeds=[0], folder=tmp_path, lr=[0.03, 0.1], full_lr=[1e-4], wait=False
    )
    assert "small-did-8" not in found.rates
    assert not [name for name in log(tmp_path) if name == "small-did-8-0"]
    assert (found.curve.absent, found.d90) == ([("did", 8)], {"did": None})


def test_trials_of_a_task_with_two_splits_are_scored_on_held_out_rows_alone(small: str, tmp_path: Path) -> None:
    side = resolve(IntrinsicRequest(small, dimensions=[8], kinds=["did"], folder=tmp_path))[1][0]
    trials = side.trials(0, tmp_path)
    for arm in trials.values():
        entry = arm.entries[0]
        assert entry.loaded is not None
        pretend(entry.loaded, run_dir=entry.run.path, resume=False, hooks=None)
    assert side.best(trials, "accuracy/mismatched") == 1e-4


def test_exactly_so_many_numbers_train(bench: Bench, tmp_path: Path) -> None:
    found = lorakit.intrinsic_dimension(
        bench.load(name="small"),
        ["training.max_steps=2"],
        dimensions=[8],
        seeds=[0],
        folder=tmp_path,
        **GIVEN,
    )
    assert found.failed == []
    for kind in ("said", "did"):
        assert Run(tmp_path / f"small-{kind}-8-0").summary()["adapter_parameters"] == 8
    assert 0 < (found.curve.frozen or 0) <= 1


@pytest.mark.parametrize(
    ("overrides", "asked", "said"),
    [
        (["adapter.rank=4"], {}, "what the sides of this measurement differ in"),
        (["training.lr=1e-3"], {}, "--lr and --full-lr"),
        (["adapter={rank: 4}"], {}, "what the sides of this measurement differ in"),
        (["training={lr: 1e-3, epochs: 1}"], {}, "--lr and --full-lr"),
        (["run.seed=3"], {}, "--seeds gives the seeds"),
        (["run={seed: 3}"], {}, "--seeds gives the seeds"),
        ([], {"dimensions": []}, "are no dimensions"),
        ([], {"dimensions": [8, 8]}, "are no dimensions"),
        ([], {"dimensions": [0]}, "are no dimensions"),
        ([], {"lr": [0.1, 0.1]}, "are no learning rates"),
        ([], {"full_lr": [-1]}, "are no learning rates"),
        (["task.holdout=0.3"], {}, "this recipe holds rows out"),
        ([], {"seeds": []}, "there are no seeds"),
        ([], {"kinds": ["sade"]}, "said"),
        ([], {"kinds": []}, "or none"),
        ([], {"dimensions": [8], "seeds": [0], "metric": "f2"}, "not scored by 'f2'"),
    ],
)
def test_what_cannot_be_measured(
    small: str, tmp_path: Path, overrides: list[str], asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        lorakit.intrinsic_dimension(small, overrides, folder=tmp_path, **asked)
    assert not [*tmp_path.iterdir()]


def test_a_subspace_smaller_than_its_scalars_is_refused_before_anything_is_trained(small: str, tmp_path: Path) -> None:
    with pytest.raises(lorakit.LorakitError, match="layers") as caught:
        lorakit.intrinsic_dimension(small, dimensions=[1], kinds=["said"], seeds=[0], folder=tmp_path)
    problem = caught.value.problems[0]
    assert (problem.where, problem.hint) == ("--dimensions", "--kinds did, which has no scalars")
    assert not [*tmp_path.iterdir()]
