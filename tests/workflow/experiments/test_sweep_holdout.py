"""A sweep that chooses by held-out training rows, and scores what it chose on the validation rows."""

import csv
import shlex
from pathlib import Path

import numpy as np
import pytest
from support.pretended import log, score

from lorakit.errors import RecipeError, UsageError
from lorakit.recipe.load import load_recipe
from lorakit.workflow.experiments.arms import essence
from lorakit.workflow.experiments.sweep import ENDED_BY_VALIDATION, sweep

GRID = ("training.lr=1e-4,1e-3,1e-2", "adapter.rank=2,4", "training.epochs=1")
RANKS = "adapter.rank=2,4"


def test_held_out_training_rows_choose_and_the_validation_rows_score_the_best(small, pretending, tmp_path):
    result = sweep(small, GRID, seeds=[0, 2], folder=tmp_path / "s", holdout=0.2, table=tmp_path / "all.csv")
    chosen = result.points[0]
    assert chosen.name == "small-lr0.001-rank4"
    assert load_recipe(Path(chosen.came_to.runs[0].path) / "recipe.yaml").recipe.task.holdout == 0.2
    assert log(tmp_path / "s")[-2:] == ["small-lr0.001-rank4-all-rows-0", "small-lr0.001-rank4-all-rows-2"]
    assert len(log(tmp_path / "s")) == 14
    assert [run.seed for run in result.final.runs] == [0, 2]
    expected = np.mean([score(1e-3, 4, seed) for seed in (0, 2)])
    assert result.final.last.mean == pytest.approx(expected)
    again = load_recipe(shlex.split(result.best)[2], shlex.split(result.best)[3:-2]).recipe
    for run in result.final.runs:
        there = load_recipe(Path(run.path) / "recipe.yaml").recipe
        assert there.task.holdout is None
        assert essence(again) == essence(there)
    assert not any("optimistic" in told for told in result.warnings)
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert [row["side"] for row in rows[-2:]] == ["small-lr0.001-rank4-all-rows"] * 2
    assert (len(rows), rows[-1]["training.lr"]) == (14, "0.001")
    assert any("optimistic" in told for told in sweep(small, GRID, seeds=[0], folder=tmp_path / "v").warnings)
    sweep(small, GRID, seeds=[0, 2], folder=tmp_path / "s", holdout=0.2)
    assert len(log(tmp_path / "s")) == 14  # nothing is trained twice


@pytest.mark.slow
def test_a_recipe_that_holds_out_rows_is_trained_on_all_of_them_in_the_end(bench, pretending, tmp_path):
    path = str(bench.load("task.holdout=0.5", name="mine").path)
    result = sweep(path, ["task.holdout=0.5", RANKS], seeds=[0], folder=tmp_path / "own")
    assert (result.final, result.holdout) == (None, None)
    with pytest.raises(UsageError, match=r"task\.holdout.*is given twice"):
        sweep(path, ["task.holdout=0.5", RANKS], seeds=[0], folder=tmp_path / "a", holdout=0.2)
    with pytest.raises(RecipeError, match=r"task\.holdout"):
        sweep(path, [RANKS], seeds=[0], folder=tmp_path / "b", holdout=1.5)
    early = ["training.early_stopping={patience: 2}", "task.holdout=null"]
    assert (
        ENDED_BY_VALIDATION
        in sweep(load_recipe(path, early), [RANKS], seeds=[0], folder=tmp_path / "e", holdout=0.2).warnings
    )
    held = load_recipe(path, ["task.holdout=0.5"])
    result = sweep(held, [RANKS], seeds=[0], folder=tmp_path / "c", holdout=0.2)
    assert load_recipe(Path(result.final.runs[0].path) / "recipe.yaml").recipe.task.holdout is None
    assert result.final.runs[0].path in result.best
