"""B diag(g) A against the three matrices multiplied out."""

from __future__ import annotations

import pytest
import torch
from support.adapters.products import SITE, check_factors_are_taken, check_product, random_product

from lorakit.adapters.deltas.diagonal import Diagonal
from lorakit.adapters.method import resolve
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection


def test_it_is_the_dense_product() -> None:
    delta = random_product("diagonal")
    check_product(delta, (delta.B @ torch.diag(delta.g) @ delta.A).detach())


def test_it_takes_any_factors() -> None:
    check_factors_are_taken("diagonal")


@pytest.mark.parametrize("name", ["A", "B", "g"])
def test_each_tensor_alone_can_remove_a_unit(name: str) -> None:
    delta = random_product("diagonal")
    expected = delta.B[:, [0, 2]] @ torch.diag(delta.g[[0, 2]]) @ delta.A[[0, 2]]
    with torch.no_grad():
        delta.get_parameter(name).select(delta.rank_axes[name], 1).zero_()
    torch.testing.assert_close(delta.dense(), expected)


def test_shapes() -> None:
    assert Diagonal.shapes(SITE, 3) == {"A": (3, 5), "B": (7, 3), "g": (3,)}


def test_gates_that_stay_zero_are_refused() -> None:
    with pytest.raises(RecipeError, match="'g' starts at zero"):
        resolve(AdapterSection(delta="diagonal", trainable="A+B"))
    assert resolve(AdapterSection(delta="diagonal", trainable="gate")).trains("gate")
