"""Every recipe that comes with lorakit: it loads, says how to start it, and keeps its promises."""

from dataclasses import replace
from pathlib import Path

import pytest

from lorakit.recipe.load import load_recipe, shipped_recipes
from lorakit.recipe.sequence import SETTINGS, find_sequence, load_sequence

TASKS = ("mrpc", "rte", "sst2", "stsb", "cola")
SEQUENCE = "two-tasks"
NAMES = [
    "demo",
    "opt350m-mrpc-paper",
    "mrpc-adalora",
    "mrpc-dylora",
    *(f"{task}-{kind}" for task in TASKS for kind in ("lora", "heterolora")),
]


def test_all_are_there():
    assert sorted(shipped_recipes()) == sorted(["auto", SEQUENCE, *NAMES])


def test_the_sequence_is_of_bundled_tasks_and_can_be_read_again(tmp_path: Path):
    path = find_sequence(SEQUENCE)
    assert path == shipped_recipes()[SEQUENCE]
    assert path.read_text(encoding="utf-8").splitlines()[0] == f"# lorakit train {SEQUENCE}"
    sequence = load_sequence(path)
    recipes = [task.recipe for task in sequence.tasks]
    assert [recipe.task.name for recipe in recipes] == ["rotten_tomatoes", "imdb"]
    assert {(recipe.model.name, recipe.run.offline) for recipe in recipes} == {("bundled:minilm", True)}
    for method in SETTINGS:
        assert load_sequence(path, [f"continual.method={method}"]).continual.method == method


@pytest.mark.parametrize("name", NAMES)
def test_first_line_starts_it(name):
    lines = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# lorakit train {name}"
    assert len(lines) <= 40


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(name, tmp_path: Path):
    loaded = load_recipe(name)
    again = tmp_path / "recipe.yaml"
    again.write_text(loaded.to_yaml(), encoding="utf-8")
    assert load_recipe(again).recipe == loaded.recipe
    assert load_recipe(again).to_yaml().splitlines()[1:] == loaded.to_yaml().splitlines()[1:]


@pytest.mark.parametrize("task", TASKS)
def test_uniform_and_searched_have_the_same_budget_on_the_same_sites(task):
    uniform, searched = load_recipe(f"{task}-lora").recipe, load_recipe(f"{task}-heterolora").recipe
    assert uniform.task == searched.task
    assert uniform.task.name == task
    assert uniform.model.name == searched.model.name == "roberta-base"
    assert (uniform.search.method, searched.search.method) == ("none", "heterolora")
    assert searched.search.uniform_rank == uniform.adapter.rank == 2
    assert searched.adapter.rank == 8
    assert uniform.adapter.targets == searched.adapter.targets == ["all"]
    assert uniform.adapter.shortcuts == searched.adapter.shortcuts
    assert uniform.adapter.alpha / uniform.adapter.rank == searched.adapter.alpha / searched.adapter.rank
    assert replace(uniform.run, name="") == replace(searched.run, name="")
    assert uniform.training == searched.training


@pytest.mark.parametrize(  # LoRA paper (arXiv:2106.09685), table 9, RoBERTa-base: batch size, learning rate
    ("task", "batch_size", "lr"),
    [("sst2", 16, 5e-4), ("mrpc", 16, 4e-4), ("cola", 32, 4e-4), ("rte", 32, 5e-4), ("stsb", 16, 4e-4)],
)
def test_training_is_the_lora_paper_s(task, batch_size, lr):
    training = load_recipe(f"{task}-lora").recipe.training
    assert (training.batch_size, training.lr, training.warmup, training.schedule) == (batch_size, lr, 0.06, "linear")


def test_the_paper_s_settings():
    recipe = load_recipe("opt350m-mrpc-paper").recipe
    assert (recipe.model.name, recipe.task.name, recipe.task.max_length) == ("facebook/opt-350m", "mrpc", 512)
    adapter, search, training = recipe.adapter, recipe.search, recipe.training
    assert (adapter.targets, adapter.shortcuts) == (["q", "v"], ["res1", "res2", "in", "mid"])
    assert (adapter.rank, adapter.alpha, adapter.shortcut_alpha, adapter.shortcut_norm) == (8, 16, 4, "paper")
    assert (search.method, search.unit, search.enable, search.every) == ("heterolora", "modules", 0.25, 0.2)
    assert (search.batches, search.data, search.mode) == (32, "first", "train")
    assert (search.proxy, search.proxy_options) == ("gradnorm", {"norm": "l2"})
    assert (training.lr, training.schedule, training.warmup, training.clip) == (2e-4, "constant", 0, 0)
    assert (training.batch_size, training.epochs, training.weight_decay) == (8, 20, 0.01)


def test_the_demo_needs_no_network_and_any_recipe_runs_on_the_bundled_model():
    demo = load_recipe("demo").recipe
    assert (demo.model.name, demo.task.name, demo.run.offline) == ("bundled:minilm", "rotten_tomatoes", True)
    assert load_recipe("mrpc-heterolora", ["model.name=bundled:minilm"]).recipe.model.name == "bundled:minilm"
