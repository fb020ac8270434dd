"""The arguments that experiments share, and the recipes they take."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from support.runs import Bench

from lorakit.errors import RecipeError
from lorakit.recipe.load import load_recipe
from lorakit.workflow.experiments.compare import CompareRequest, compare
from lorakit.workflow.experiments.request import Request, as_loaded
from lorakit.workflow.experiments.sweep import plan_sweep, sweep
from lorakit.workflow.experiments.sweep_spec import SweepRequest


@pytest.mark.parametrize(
    ("function", "request_of", "first"),
    [(compare, CompareRequest, "arms"), (sweep, SweepRequest, "recipe"), (plan_sweep, SweepRequest, "recipe")],
)
def test_a_function_has_the_arguments_of_its_request(function, request_of, first):
    signature = inspect.signature(function)
    assert set(signature.parameters) == {field.name for field in fields(request_of)}
    assert set(signature.parameters) > {field.name for field in fields(Request)}
    positional = [name for name, p in signature.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [first, "overrides"]
    assert function.__name__ in ("compare", "sweep", "plan_sweep")
    with pytest.raises(TypeError, match="seed"):
        function("demo", seed=[0])


def test_every_argument_is_told():
    for function in (compare, sweep):
        for name in inspect.signature(function).parameters:
            assert f"        {name}: " in function.__doc__


def test_a_recipe_is_a_name_a_file_a_run_folder_or_a_loaded_one(bench: Bench, tmp_path: Path):
    loaded = bench.load("adapter.rank=3", name="plain")
    (tmp_path / "recipe.yaml").write_text(loaded.to_yaml())
    assert as_loaded(loaded) is loaded
    assert as_loaded(tmp_path).recipe == loaded.recipe
    assert as_loaded(str(loaded.path), ["adapter.rank=3"]).recipe == loaded.recipe
    assert (
        as_loaded("mrpc-lora", ["training.epochs=1"]).recipe == load_recipe("mrpc-lora", ["training.epochs=1"]).recipe
    )


def test_a_loaded_recipe_is_overridden_like_its_file(bench: Bench):
    settings = ["training.lr=0.01", "search.method=heterolora", "search.enable=0.5"]
    changed = as_loaded(bench.load("adapter.rank=3", name="plain"), settings)
    assert changed.recipe == bench.load("adapter.rank=3", *settings, name="plain").recipe
    other_budget = as_loaded(changed, ["search.uniform_rank=2"])
    assert (other_budget.recipe.search.enable, other_budget.recipe.search.uniform_rank) == (None, 2)
    assert other_budget.where("search.uniform_rank") == "command line"
    with pytest.raises(RecipeError) as caught:
        as_loaded(changed, ["adapter.rank=0", "training.epoch=3"])
    assert {problem.key for problem in caught.value.problems} == {"adapter.rank", "training.epoch"}
