"""SoRA's product: that of `diagonal`, started with open gates, and closed by them."""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import kstest
from support.adapters.products import check_factors_are_taken, check_product, random_product

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.method import resolve
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection


def adapter(rank: int, inside: int, outside: int) -> Adapter:
    spec = resolve(AdapterSection(method="sora", rank=rank))
    return Adapter(Site("m", 0, "q", inside, outside, "linear"), spec, rank, torch.nn.Linear(inside, outside))


def test_it_is_the_dense_product() -> None:
    delta = random_product("gated")
    check_product(delta, (delta.B @ torch.diag(delta.g) @ delta.A).detach())


def test_it_takes_any_factors() -> None:
    check_factors_are_taken("gated")


def test_its_start() -> None:
    """A as LoRA's, within 1/sqrt(in); g ~ N(0, 1); B zero."""
    delta: Any = adapter(256, 300, 256).delta
    assert kstest(delta.A.detach().flatten().numpy() * 300**0.5, "uniform", (-1, 2)).pvalue > 0.01
    assert kstest(delta.g.detach().numpy(), "norm").pvalue > 0.01
    assert not delta.B.any()


def test_a_unit_is_closed_by_its_gate() -> None:
    sora = adapter(3, 5, 4)
    delta: Any = sora.delta
    with torch.no_grad():
        delta.B.normal_(generator=torch.Generator().manual_seed(0))
    b, g, a = (tensor.detach().clone() for tensor in (delta.B, delta.g, delta.A))
    sora.units.keep(torch.tensor([True, False, True]))
    torch.testing.assert_close(delta.dense(), b[:, [0, 2]] @ torch.diag(g[[0, 2]]) @ a[[0, 2]])
    assert torch.equal(delta.B, b)
    assert sora.parameters_at(2) == 2 * (5 + 4 + 1)
