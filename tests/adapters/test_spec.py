"""A recipe's adapter section becomes one value on every axis, or one clear refusal."""

from __future__ import annotations

import math

import pytest

from lorakit.adapters.conflicts import conflicts_with_search
from lorakit.adapters.spec import SCALES, resolve, shortcut_spec
from lorakit.errors import RecipeError, UsageError
from lorakit.recipe.schema import AdapterSection, SearchSection


def test_the_method_gives_the_axes_and_the_recipe_overrides_them() -> None:
    spec = resolve(AdapterSection(method="dora", init="gaussian", scale="rslora", rank=4, alpha=8, dropout=0.1))
    assert (spec.init, spec.scale, spec.decomposition, spec.dropout) == ("gaussian", "rslora", "magnitude", 0.1)
    assert spec.scale_at(spec.rank) == 4.0
    assert resolve(AdapterSection(method="dora", decomposition="none")).decomposition == "none"


def test_scales() -> None:
    values = {name: rule(6.0, 9) for name, rule in SCALES.items()}
    assert values == {"lora": 6 / 9, "rslora": 6 / math.sqrt(9), "constant": 6.0, "none": 1.0}


def test_shortcuts_have_their_own_rank_and_alpha_or_the_linear_ones() -> None:
    own = shortcut_spec(
        AdapterSection(method="dora", init="gaussian", rank=8, alpha=16, shortcut_rank=2, shortcut_alpha=4)
    )
    assert (own.rank, own.alpha, own.decomposition, own.init) == (2, 4, "none", "kaiming")
    assert own.scale_at(own.rank) == 2.0
    assert (shortcut_spec(AdapterSection(rank=8)).rank, shortcut_spec(AdapterSection(alpha=7)).alpha) == (8, 7)


@pytest.mark.parametrize("trainable", ["C", "magnitude", "B+C", "A+B+gate"])
def test_an_unknown_role_is_refused_whatever_stands_beside_it(trainable: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(AdapterSection(trainable=trainable))
    problem = caught.value.problems[0]
    assert problem.key == "adapter.trainable"
    assert trainable in problem.what
    assert "A+B" in problem.valid


@pytest.mark.parametrize("axis", ["method", "delta", "init"])
def test_an_unregistered_name_is_refused_with_the_choices(axis: str) -> None:
    with pytest.raises(UsageError, match="called 'nonesuch'") as caught:
        resolve(AdapterSection(**{axis: "nonesuch"}))
    assert caught.value.problems[0].valid


@pytest.mark.parametrize(
    ("method", "trainable", "shared"),
    [
        ("tied_lora", None, "A and B"),
        ("lotr", None, "A and B"),
        ("vb_lora", None, "bank"),
        ("tied_lora", "B+vector", "B"),
        ("vb_lora", "logits", ""),
        ("vera", None, ""),
        ("lora", None, ""),
    ],
)
def test_a_site_that_moves_with_others_cannot_be_frozen(method: str, trainable: str | None, shared: str) -> None:
    spec = resolve(AdapterSection(method=method, trainable=trainable))
    found = conflicts_with_search(spec, SearchSection(method="heterolora", off="freeze"))
    assert [(problem.key, problem.valid) for problem in found] == ([("search.off", "drop")] if shared else [])
    assert all(f"share {shared}:" in problem.what for problem in found)
    assert conflicts_with_search(spec, SearchSection(method="heterolora", off="drop")) == []
    assert conflicts_with_search(spec, SearchSection(off="freeze")) == []
