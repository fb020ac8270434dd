"""A recipe of model and data alone: all else is that of the shipped recipe ``auto``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lorakit.errors import Problem
from lorakit.recipe.load import TOLD_NOTHING_CHOSEN, LoadedRecipe, load_recipe

Load = Callable[..., LoadedRecipe]
NAMED = ["model.name=bundled:minilm", "task.name=mrpc"]


def test_two_lines_are_the_recipe_auto(load: Load):
    loaded, auto = load(), load_recipe("auto", [*NAMED, "run.name=mine"])
    assert loaded.recipe == auto.recipe
    assert (loaded.told, auto.told) == ([TOLD_NOTHING_CHOSEN], [])
    recipe = loaded.recipe
    assert (recipe.adapter.method, recipe.adapter.targets, recipe.adapter.rank) == ("lora", ["all"], 8)
    assert (recipe.training.lr, recipe.model.readout, recipe.model.head_start) == ("auto", "auto", "fitted")
    assert "/auto.yaml:" in loaded.where("training.lr")


@pytest.mark.parametrize("section", ["adapter: {rank: 4}", "search: {method: none}", "training: {epochs: 1}"])
def test_a_recipe_that_chooses_any_of_it_is_as_it_was(load: Load, section: str):
    loaded = load(section)
    assert loaded.told == []
    assert (loaded.recipe.model.head_start, loaded.recipe.training.lr) == ("random", 5e-4)


def test_other_sections_and_the_command_line_choose_what_they_name(load: Load):
    recipe = load("run: {seed: 3}\nevaluation: {every: 0.5}", "training.epochs=1", "model.readout=cls").recipe
    assert (recipe.run.seed, recipe.evaluation.every, recipe.training.epochs) == (3, 0.5, 1)
    assert (recipe.training.lr, recipe.model.readout) == ("auto", "cls")


def test_another_method_keeps_its_usual_rank(load: Load):
    usual = load("adapter: {method: vera, targets: all}").recipe
    for recipe in (load("", "adapter.method=vera").recipe, load_recipe(load(), ["adapter.method=vera"]).recipe):
        assert recipe.adapter == usual.adapter
        assert recipe.training.lr == "auto"


def test_a_loaded_one_is_changed_as_its_file_is(load: Load):
    again = load_recipe(load_recipe(load(), ["training.epochs=1"]), ["model.readout=mean"])
    assert again.recipe == load("", "training.epochs=1", "model.readout=mean").recipe


def test_what_is_missing_is_still_asked_for(mistakes: Callable[..., tuple[Problem, ...]]):
    (problem,) = mistakes(head="task: {name: mrpc}\n")
    assert problem.key == "model.name"
