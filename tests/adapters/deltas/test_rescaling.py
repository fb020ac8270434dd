"""Rescaled outputs and inputs against diagonal matrices written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.method import resolve
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection

SPEC = resolve(AdapterSection(method="ia3"))


def rescaled(role: str, *, bias: bool = True) -> tuple[nn.Linear, Adapter]:
    """A Linear (5 to 7) in double precision as the projection ``role``, l random."""
    torch.manual_seed(0)
    base = nn.Linear(5, 7, bias=bias).double().requires_grad_(False)
    adapter = Adapter(Site("m", 0, role, 5, 7, "linear", bias=bias), SPEC, 1, base).double()
    torch.nn.init.normal_(adapter.delta.l)
    adapter.switch("on")
    return base, adapter


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("role", ["q", "k", "v", "o", "up", "gate", "down"])
def test_the_layer_is_the_matrix_product(role: str, bias: bool) -> None:
    base, adapter = rescaled(role, bias=bias)
    diagonal, x = torch.diag(adapter.delta.l), torch.randn(2, 4, 5, dtype=torch.float64)
    b = base.bias if bias else torch.zeros(7, dtype=torch.float64)
    weight, shift = (base.weight @ diagonal, b) if role == "down" else (diagonal @ base.weight, diagonal @ b)
    assert adapter.delta.l.shape == ((5,) if role == "down" else (7,))
    assert_close(base(x), torch.einsum("oi,bti->bto", weight, x) + shift)
    assert_close(adapter.effective_weight(base.weight), weight)
    if bias:
        assert_close(adapter.effective_bias(base.weight, base.bias), shift)
    else:
        assert adapter.effective_bias(base.weight, None) is None


@pytest.mark.parametrize("role", ["k", "down"])
def test_gradients_are_those_of_finite_differences(role: str) -> None:
    _, adapter = rescaled(role)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    l = adapter.delta.l  # noqa: E741 - the paper's name

    def forward(x: torch.Tensor, l: torch.Tensor) -> torch.Tensor:  # noqa: E741
        return torch.func.functional_call(Whole(adapter), {"adapter.delta.l": l}, x)

    assert torch.autograd.gradcheck(forward, (x, l))


class Whole(nn.Module):
    """The adapted layer as a module of its adapter's tensors."""

    def __init__(self, adapter: Adapter):
        super().__init__()
        self.adapter = adapter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.adapter.rewritten(x)


def test_only_ones_change_nothing() -> None:
    _, adapter = rescaled("k")
    assert not adapter.changes_nothing()
    torch.nn.init.ones_(adapter.delta.l)
    assert adapter.changes_nothing()
