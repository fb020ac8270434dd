"""A recipe's adapter section becomes one value on every axis, or one clear refusal."""

from __future__ import annotations

import pytest

from lorakit.adapters.method import resolve, shortcut_spec
from lorakit.errors import UsageError
from lorakit.recipe.schema import AdapterSection


def test_the_method_gives_the_axes_and_the_recipe_overrides_them() -> None:
    spec = resolve(AdapterSection(method="dora", init="gaussian", scale="rslora", rank=4, alpha=8, dropout=0.1))
    assert (spec.init, spec.scale, spec.decomposition, spec.dropout) == ("gaussian", "rslora", "magnitude", 0.1)
    assert spec.scale_at(spec.rank) == 4.0
    assert resolve(AdapterSection(method="dora", decomposition="none")).decomposition == "none"


def test_shortcuts_have_their_own_rank_and_alpha_or_the_linear_ones() -> None:
    own = shortcut_spec(
        AdapterSection(method="dora", init="gaussian", rank=8, alpha=16, shortcut_rank=2, shortcut_alpha=4)
    )
    assert (own.rank, own.alpha, own.decomposition, own.init) == (2, 4, "none", "kaiming")
    assert own.scale_at(own.rank) == 2.0
    assert (shortcut_spec(AdapterSection(rank=8)).rank, shortcut_spec(AdapterSection(alpha=7)).alpha) == (8, 7)


@pytest.mark.parametrize("axis", ["method", "delta", "init"])
def test_an_unregistered_name_is_refused_with_the_choices(axis: str) -> None:
    with pytest.raises(UsageError, match="called 'nonesuch'") as caught:
        resolve(AdapterSection(**{axis: "nonesuch"}))
    assert caught.value.problems[0].valid
