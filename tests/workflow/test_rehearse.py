"""A plan refuses what a search or an update refuses when the training makes it, in the training's words."""

from pathlib import Path

import pytest
from support.runs import Bench

import lorakit
from lorakit.errors import RecipeError

REFUSED = {
    "by the steps": ("adapter.method=relora", "adapter.options={links: 900}"),
    "by the adapters": ("adapter.method=lora", "adapter.updates=[diff_pruning]"),
    "by its settings": (
        "adapter.method=lora",
        "adapter.updates=[shifted_attention]",
        "adapter.update_options={group: 1}",
    ),
    "a search": ("adapter.method=lora", "adapter.shortcuts=[res1]", "search.method=eva", "search.enable=0.5"),
    "of a search": ("adapter.method=aflora", "search.method=heterolora"),
}


@pytest.mark.parametrize("settings", REFUSED.values(), ids=REFUSED)
def test_a_plan_refuses_what_the_training_refuses(bench: Bench, tmp_path: Path, settings: tuple[str, ...]):
    with pytest.raises(RecipeError) as planned:
        lorakit.plan(bench.load(*settings))
    with pytest.raises(RecipeError) as trained:
        bench.prepare(tmp_path, *settings)
    assert str(planned.value) == str(trained.value)


def test_a_plan_counts_what_there_is_before_an_update_switches_adapters(bench: Bench):
    """Updates that draw the layers that train leave a plan's numbers as they are with all of them: 2 layers of q, 32 x 32, rank 2."""
    settings = ("adapter.method=relora", "adapter.targets=[q]", "adapter.rank=2", "adapter.update_options={layers: 1}")
    assert lorakit.plan(bench.load(*settings)).adapter_parameters == 2 * 2 * (32 + 32)


def test_the_budget_leaves_out_what_never_trains(bench: Bench):
    """aflora never trains A and B of q, which is square: two layers of rank + out numbers."""
    planned = lorakit.plan(bench.load("adapter.method=aflora", "adapter.targets=[q]", "adapter.rank=2"))
    assert planned.budget == planned.adapter_parameters == 2 * (2 + 32)
