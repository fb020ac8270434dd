"""diag(b) B diag(d) A, with matrices of the site's own, against the four matrices multiplied out."""

from __future__ import annotations

import pytest
import torch
from support.adapters.products import SITE, check_factors_are_taken, check_product, random_product

from lorakit.adapters.deltas.vectors import Vectors
from lorakit.adapters.method import resolve
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection


def test_it_is_the_dense_product() -> None:
    delta = random_product("vectors")
    check_product(delta, (torch.diag(delta.b) @ delta.B @ torch.diag(delta.d) @ delta.A).detach())


def test_it_takes_any_factors() -> None:
    check_factors_are_taken("vectors")


@pytest.mark.parametrize("name", ["A", "B", "d"])
def test_each_tensor_along_the_rank_can_remove_a_unit(name: str) -> None:
    delta = random_product("vectors")
    expected = torch.diag(delta.b) @ delta.B[:, [0, 2]] @ torch.diag(delta.d[[0, 2]]) @ delta.A[[0, 2]]
    with torch.no_grad():
        delta.get_parameter(name).select(delta.rank_axes[name], 1).zero_()
    torch.testing.assert_close(delta.dense(), expected)


def test_shapes_and_start() -> None:
    assert Vectors.shapes(SITE, 3) == {"A": (3, 5), "B": (7, 3), "d": (3,), "b": (7,)}
    delta = Vectors(SITE, 3)
    delta.put_at_start(torch.Generator())
    assert torch.equal(delta.d, torch.full((3,), 0.1))
    assert not delta.b.any()
    assert delta.is_zero()


def test_vectors_that_stay_zero_are_refused() -> None:
    with pytest.raises(RecipeError, match="'b' starts at zero"):
        resolve(AdapterSection(delta="vectors", trainable="A+B"))
    assert resolve(AdapterSection(delta="vectors", trainable="vector")).trains("vector")
