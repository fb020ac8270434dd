"""A sum of products of which one trains: the sum written out, a link that ends, and a stack that is written anew."""

from __future__ import annotations

from typing import Any

import torch
from support.adapters.products import SITE, random_product
from torch.testing import assert_close

from lorakit.adapters.deltas.chain import Chain

SCALE = 1.7


def products(delta: Any) -> list[torch.Tensor]:
    """B A of each link, the one that trains first."""
    pasts = zip(delta.B_past.split(3, dim=1), delta.A_past.split(3), strict=True)
    return [(b @ a).detach() for b, a in [(delta.B, delta.A), *pasts]]


def test_it_is_the_sum_of_the_products() -> None:
    delta = random_product("chain")
    dense = sum(products(delta))
    assert len(products(delta)) == 4
    assert_close(delta.dense(), dense)
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert_close(delta(x, SCALE), SCALE * torch.einsum("oi,bti->bto", dense, x))
    weight = torch.randn(7, 5, dtype=torch.float64)
    norms = delta.row_norms_squared(weight, weight.square().sum(dim=1), SCALE)
    assert_close(norms.sqrt(), torch.linalg.vector_norm(weight + SCALE * dense, dim=1))
    assert torch.autograd.gradcheck(lambda x, *tensors: delta(x, SCALE), (x[0], delta.A, delta.B))


def test_a_link_that_ends_leaves_the_function_and_trains_anew() -> None:
    delta = random_product("chain")
    delta.A_past.data.zero_()
    delta.B_past.data.zero_()
    before, fresh = delta.dense().detach(), torch.ones(3, 5, dtype=torch.float64)
    delta.finish(1, fresh)
    assert_close(delta.dense(), before)
    assert torch.equal(delta.A, fresh)
    assert not delta.B.any()
    live, first, second, third = products(delta)
    assert_close(second, before)
    assert not torch.stack([live, first, third]).any()


def test_the_stack_is_written_anew() -> None:
    for name in ("chain", "pushed"):
        delta = random_product(name)
        units = delta.factors()[1].shape[0]
        b, a = torch.randn(7, units).double(), torch.randn(units, 5).double()
        delta.set_stack(b, a)
        assert_close(delta.dense(), b @ a)


def test_shapes() -> None:
    assert Chain.shapes(SITE, 2, {"links": 3}) == {"A": (2, 5), "B": (7, 2), "A_past": (4, 5), "B_past": (7, 4)}
