"""B G A against the three matrices multiplied out."""

from __future__ import annotations

import pytest
import torch
from support.adapters.products import SITE, check_factors_are_taken, check_product, random_product

from lorakit.adapters.deltas.core import Core
from lorakit.adapters.method import resolve
from lorakit.adapters.rank_units import axes_of
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection


def test_it_is_the_dense_product() -> None:
    delta = random_product("core")
    check_product(delta, torch.einsum("oj,jk,ki->oi", delta.B, delta.G, delta.A).detach())


def test_it_takes_any_factors() -> None:
    check_factors_are_taken("core")


def test_a_unit_that_is_zero_along_the_named_axes_is_gone() -> None:
    delta = random_product("core")
    kept = [0, 2]
    expected = delta.B[:, kept] @ delta.G[kept][:, kept] @ delta.A[kept]
    with torch.no_grad():
        for name, tensor, _ in delta.tensors():
            for axis in axes_of(delta, name):
                tensor.select(axis, 1).zero_()
    torch.testing.assert_close(delta.dense(), expected)


def test_shapes() -> None:
    assert Core.shapes(SITE, 3) == {"A": (3, 5), "B": (7, 3), "G": (3, 3)}


@pytest.mark.parametrize("trainable", ["A", "B", "A+B"])
def test_a_core_that_stays_zero_is_refused(trainable: str) -> None:
    with pytest.raises(RecipeError, match="'G' starts at zero"):
        resolve(AdapterSection(delta="core", trainable=trainable))


@pytest.mark.parametrize("trainable", ["core", "A+core", "all"])
def test_a_core_that_trains_is_enough(trainable: str) -> None:
    assert resolve(AdapterSection(delta="core", trainable=trainable)).trains("core")
    assert resolve(AdapterSection(delta="core", trainable="A", init="pissa")).trains("A")  # there it starts at one


def test_an_init_that_gives_a_zero_b_needs_b_to_train_and_not_the_core() -> None:
    """There the core starts at one."""
    assert resolve(AdapterSection(delta="core", init="eva", trainable="A+B")).trains("B")
    for method in ("lora_xs", "flora"):
        with pytest.raises(RecipeError, match="'B' starts at zero"):
            resolve(AdapterSection(method=method, init="eva", trainable="A+core"))
