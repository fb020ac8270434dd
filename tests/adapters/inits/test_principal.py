"""A = S V^T and B = U of W's first singular triplets, where they are drawn, by numpy's own decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.adapters.method import resolve
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

SITE = Site("m", 0, "q", 20, 30, "linear")
RANK = 4


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(30, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def started(name: str, weight: torch.Tensor, scale: float = 1.0) -> torch.nn.Module:
    delta = deltas.get(name)(SITE, RANK).double()
    delta.put_at_start(torch.Generator())
    inits.get("principal")(delta, InitContext(weight, scale, torch.Generator()))
    return delta


def best(weight: torch.Tensor) -> torch.Tensor:
    """W's best approximation of rank 4 (Eckart and Young 1936)."""
    u, s, vt = np.linalg.svd(weight.numpy())
    return torch.from_numpy(u[:, :RANK] * s[:RANK] @ vt[:RANK])


@pytest.mark.parametrize("name", ["core", "diagonal", "vectors"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_between_the_factors_lies_the_best_approximation(name: str, scale: float, weight: torch.Tensor) -> None:
    delta = started(name, weight, scale)
    assert_close(delta.B @ delta.A, best(weight))
    assert_close(delta.B.T @ delta.B, torch.eye(RANK, dtype=torch.float64))
    lengths = np.linalg.svd(weight.numpy(), compute_uv=False)[:RANK]
    assert_close(delta.A.norm(dim=1), torch.from_numpy(lengths))


@pytest.mark.parametrize("name", ["low_rank", "core", "diagonal", "vectors"])
def test_the_update_is_zero_all_the_same(name: str, weight: torch.Tensor) -> None:
    delta = started(name, weight)
    assert not delta.dense().any()
    assert delta.is_zero()


def test_in_lora_a_holds_the_right_singular_vectors(weight: torch.Tensor) -> None:
    delta = started("low_rank", weight)
    unit = delta.A / delta.A.norm(dim=1, keepdim=True)
    vt = torch.from_numpy(np.linalg.svd(weight.numpy())[2][:RANK])
    assert_close((unit @ vt.T).abs(), torch.eye(RANK, dtype=torch.float64))  # the same vectors up to signs
    assert not delta.B.any()


@pytest.mark.parametrize("name", ["tied", "shared_vectors", "shared_core", "rescaling"])
def test_a_delta_without_two_factors_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"adapter\.init"):
        resolve(AdapterSection(delta=name, init="principal"))
