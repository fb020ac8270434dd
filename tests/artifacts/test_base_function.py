"""What runs that meet made of one base model: the same in other words, nearly the same, and another function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.runs import Bench
from transformers import AutoConfig

import lorakit
from lorakit.artifacts.base_function import check_over
from lorakit.artifacts.run import Run
from lorakit.errors import RecipeError, UsageError
from lorakit.recipe.schema import Recipe
from lorakit.workflow.combine.members import check_functions

POSITIONS = 64  # of the tiny models


def run_of(bench: Bench, folder: Path, *overrides: str, family: str = "llama") -> Run:
    """A run's folder, as far as it is looked at here."""
    run = Run(folder)
    run.recipe.parent.mkdir()
    run.recipe.write_text(bench.load(*overrides, family=family).to_yaml(), encoding="utf-8")
    return run


def over_start(recipe: Recipe, config: Any) -> list[str]:
    """What is said of the weights that a recipe's start was trained over."""
    return check_over(recipe, config, Path(str(recipe.adapter.start)), "adapter.start")


@pytest.mark.parametrize(
    ("there", "here", "factors"),
    [
        ("model.rope_scaling=2", "model.rope_scaling=2.0", None),
        (f"task.max_length={POSITIONS * 2}", "model.rope_scaling=1", None),
        ("model.rope_scaling=auto", "task.max_length=32", None),  # rows that fit are not divided
        ("model.rope_scaling=2", "task.max_length=32", ("2", "1")),
        ("task.max_length=32", "model.rope_scaling=auto task.max_length=150", ("1", "3")),
    ],
)
def test_positions_are_compared_by_what_divides_them(
    bench: Bench, tmp_path: Path, there: str, here: str, factors: tuple[str, str] | None
):
    runs = [run_of(bench, tmp_path / name, *settings.split()) for name, settings in (("a", there), ("b", here))]
    config = AutoConfig.from_pretrained(bench.backbone("llama"))
    own = bench.load(*here.split(), f"adapter.start={runs[0].path}", family="llama").recipe
    if factors is None:
        assert over_start(own, config) == []
        check_functions(runs, config)
        return
    with pytest.raises(RecipeError, match="divided by {}, .* divided by {}".format(*factors)) as caught:
        over_start(own, config)
    assert caught.value.problems[0].key == "adapter.start"
    with pytest.raises(UsageError, match="divided by {}, .* by {} ".format(*reversed(factors))):
        check_functions(runs, config)


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("model.quantization=int4", ""),
        ("", "model.dtype=bfloat16"),
        ("model.quantization=mixed", "model.quantization=mixed model.quantization_bits=4"),
        ("model.quantization=nf4", "model.quantization=nf4 model.double_quant=true"),
    ],
)
def test_other_rounding_is_told(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture, there: str, here: str):
    runs = [run_of(bench, tmp_path / name, *settings.split()) for name, settings in (("a", there), ("b", here))]
    config = AutoConfig.from_pretrained(bench.backbone("llama"))
    (said,) = over_start(bench.load(*here.split(), f"adapter.start={runs[0].path}").recipe, config)
    assert "trained over weights in" in said
    check_functions(runs, config)
    assert "its update is not exact there" in caplog.text


def test_a_plan_says_it(bench: Bench):
    run = bench.train("training.max_steps=1").run_dir
    told = " ".join(lorakit.plan(bench.load("model.quantization=int4", f"adapter.start={run}")).notes)
    assert "trained over weights in float32, and these are in int4 in groups of 32 of float32" in told
