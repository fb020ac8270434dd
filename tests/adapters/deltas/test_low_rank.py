"""The product B A against the two matrices multiplied out."""

from __future__ import annotations

import torch
from support.adapters.products import SCALE, SITE, check_factors_are_taken, check_product, random_product
from torch.testing import assert_close

from lorakit.adapters.deltas.low_rank import LowRank


def test_it_is_the_dense_product() -> None:
    delta = random_product("low_rank")
    check_product(delta, torch.einsum("or,ri->oi", delta.B, delta.A).detach())


def test_it_takes_any_factors() -> None:
    check_factors_are_taken("low_rank")


def test_shapes_and_ranks_agree() -> None:
    assert LowRank.shapes(SITE, 3) == {"A": (3, 5), "B": (7, 3)}
    assert {name: p.shape[LowRank.rank_axes[name]] for name, p in LowRank(SITE, 3).named_parameters()} == {
        "A": 3,
        "B": 3,
    }


def test_an_update_of_zero_leaves_the_row_norms_exactly() -> None:
    delta = random_product("low_rank")
    torch.nn.init.zeros_(delta.B)
    squared = torch.rand(SITE.out_features, dtype=torch.float64)
    weight = torch.randn(SITE.out_features, SITE.in_features, dtype=torch.float64)
    assert_close(delta.row_norms_squared(weight, squared, SCALE), squared, rtol=0, atol=0)
