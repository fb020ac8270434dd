"""EVA: principal components of the inputs, by scikit-learn."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA
from torch.testing import assert_close

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.site import Site

RANK = 3


def test_a_is_the_principal_components_and_b_zero() -> None:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(50, 7, generator=generator) * torch.arange(1, 8) + 20 * torch.randn(7, generator=generator)
    delta = deltas.get("low_rank")(Site("m", 0, "q", 7, 10, "linear"), RANK)
    context = InitContext(
        torch.zeros(10, 7), 2.0, torch.Generator(), covariance=tokens.T @ tokens / 50, mean=tokens.mean(dim=0)
    )
    inits.get("eva")(delta, context)
    components = torch.tensor(PCA(RANK).fit(tokens.double().numpy()).components_)
    a = delta.A.detach().double()
    signs = (a * components).sum(dim=1, keepdim=True).sign()
    assert_close(a, components * signs, rtol=1e-3, atol=1e-3)
    assert_close(a @ a.T, torch.eye(RANK, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    assert not delta.B.any()


@pytest.mark.parametrize("name", ["low_rank", "diagonal", "core", "vectors"])
def test_the_update_is_nothing_until_b_moves(name: str) -> None:
    delta = deltas.get(name)(Site("m", 0, "q", 7, 10, "linear"), RANK)
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(3))
    context = InitContext(None, 2.0, torch.Generator(), covariance=x.T @ x / 50, mean=x.mean(dim=0))
    inits.get("eva")(delta, context)
    assert not delta.dense().any()
    assert delta.is_zero()
    torch.nn.init.ones_(delta.B)
    assert delta.dense().any()
    assert not delta.is_zero()
