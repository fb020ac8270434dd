"""The product B A against its formulas, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.low_rank import LowRank
from lorakit.backbone.site import Site
from lorakit.registry import deltas

SITE = Site("m", 0, "q", 5, 7, "linear")
SCALE = 1.7


@pytest.fixture
def delta() -> LowRank:
    torch.manual_seed(0)
    built = deltas.get("low_rank")(SITE, 3).double()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    return built


def test_shapes_and_ranks_agree(delta: LowRank) -> None:
    assert {name: tuple(p.shape) for name, p in delta.named_parameters()} == {"A": (3, 5), "B": (7, 3)}
    assert LowRank.shapes(SITE, 3) == {"A": (3, 5), "B": (7, 3)}
    assert all(p.shape[LowRank.rank_axes[name]] == 3 for name, p in delta.named_parameters())


def test_forward_is_the_dense_product(delta: LowRank) -> None:
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    dense = SCALE * torch.einsum("or,ri->oi", delta.B, delta.A)
    assert_close(delta(x, SCALE), torch.einsum("oi,bti->bto", dense, x))
    assert_close(SCALE * delta.dense(), dense)
    weight = torch.randn(7, 5, dtype=torch.float64)
    assert_close(delta.effective_weight(weight, SCALE), weight + dense)


def test_gradients_are_those_of_finite_differences(delta: LowRank) -> None:
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def forward(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(delta, {"A": a, "B": b}, (x, SCALE))

    assert torch.autograd.gradcheck(forward, (x, delta.A, delta.B))


@pytest.mark.parametrize("zero", [True, False])
def test_row_norms_are_those_of_the_dense_weight(delta: LowRank, zero: bool) -> None:
    if zero:
        torch.nn.init.zeros_(delta.B)
    weight = torch.randn(7, 5, dtype=torch.float64)
    dense = torch.linalg.vector_norm(weight + SCALE * delta.B @ delta.A, dim=1)
    assert_close(delta.row_norms_squared(weight, (weight**2).sum(dim=1), SCALE).sqrt(), dense)
