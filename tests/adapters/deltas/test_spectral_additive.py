"""(U_r + B) S_r (V_r + A)^T against numpy's decomposition, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.adapters.products import prepared
from torch.testing import assert_close

from lorakit.adapters.deltas.singular_values import decompose
from lorakit.adapters.method import methods
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection

SCALE, RANK = 1.7, 2
SITES = [Site("m", 0, "q", 5, 7, "linear"), Site("m", 0, "q", 7, 5, "linear")]


@pytest.mark.parametrize("site", SITES)
def test_the_function_is_the_papers(site: Site) -> None:
    delta, weight = prepared("spectral_additive", site, RANK)
    u, s, vt = (part.numpy() for part in decompose(weight))
    a, b = delta.A.detach().numpy().T, delta.B.detach().numpy()  # the paper's A is (in x r)
    first = (u[:, :RANK] + b) @ np.diag(s[:RANK]) @ (vt[:RANK].T + a).T
    new = torch.from_numpy(first + u[:, RANK:] @ np.diag(s[RANK:]) @ vt[RANK:])
    assert_close(delta.effective_weight(weight, 1.0), new)
    x = torch.randn(2, 4, site.in_features, dtype=torch.float64)
    assert_close(delta(x, SCALE), SCALE * torch.einsum("oi,bti->bto", new - weight, x))
    norms = delta.row_norms_squared(weight, weight.square().sum(dim=1), 1.0)
    assert_close(norms, new.square().sum(dim=1))
    left, right = delta.factors()
    assert left.shape[1] == right.shape[0] == 2 * RANK
    assert_close(left @ right, new - weight)


def test_gradients_are_those_of_finite_differences() -> None:
    delta, _ = prepared("spectral_additive", SITES[0], RANK)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def forward(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(delta, {"A": a, "B": b}, (x, SCALE))

    assert torch.autograd.gradcheck(forward, (x, delta.A, delta.B))


@pytest.mark.parametrize("alone", ["A", "B", "all"])
def test_both_start_at_zero_and_neither_is_stuck(alone: str) -> None:
    delta, _ = prepared("spectral_additive", SITES[0], RANK)
    for parameter in delta.parameters():
        torch.nn.init.zeros_(parameter)
    assert delta.is_zero()
    delta(torch.randn(3, 5, dtype=torch.float64), SCALE).sum().backward()
    spec = methods.get("spectral_additive").resolve(AdapterSection(method="spectral_additive", trainable=alone))
    assert all(tensor.grad.any() for _, tensor, role in delta.tensors() if spec.trains(role))
    for parameter in delta.parameters():
        with torch.no_grad():
            parameter[0, 0] = 1.0
        assert not delta.is_zero()
        torch.nn.init.zeros_(parameter)
