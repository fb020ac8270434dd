"""Moved singular values against numpy's decomposition, in double precision."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.singular_values import decompose
from lorakit.adapters.method import methods
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

SCALE = 1.7
SITES = [Site("m", 0, "q", 5, 7, "linear"), Site("m", 0, "q", 7, 5, "linear")]
MOVES = {"linear": lambda s, d: d, "relu": lambda s, d: np.maximum(s + d, 0) - s}


def prepared(site: Site, link: str = "linear") -> tuple[Any, torch.Tensor]:
    """The delta on a random weight, and that weight; some of its shifts are below -s, so that relu matters."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(site.out_features, site.in_features, generator=generator, dtype=torch.float64)
    delta = deltas.get("singular_values")(site, 3, {"link": link}).double()
    delta.prepare(weight)
    torch.nn.init.normal_(delta.d, std=3.0, generator=generator)
    return delta, weight


def dense(weight: torch.Tensor, d: torch.Tensor, link: str) -> torch.Tensor:
    u, s, v = np.linalg.svd(weight.numpy(), full_matrices=False)
    return torch.from_numpy(u @ np.diag(MOVES[link](s, d.detach().numpy())) @ v)


@pytest.mark.parametrize("link", MOVES)
@pytest.mark.parametrize("site", SITES)
def test_forward_is_the_dense_product(site: Site, link: str) -> None:
    delta, weight = prepared(site, link)
    expected = dense(weight, delta.d, link)
    x = torch.randn(2, 4, site.in_features, dtype=torch.float64)
    assert_close(delta(x, SCALE), SCALE * torch.einsum("oi,bti->bto", expected, x))
    assert_close(delta.dense(), expected)
    assert delta.factors() is None
    assert {name: tuple(p.shape) for name, p in delta.named_parameters()} == delta.shapes(site, 3) == {"d": (5,)}


def test_relu_keeps_singular_values_from_falling_below_zero() -> None:
    delta, weight = prepared(SITES[0], "relu")
    assert (delta.s + delta.d < 0).any()
    u, _, v = np.linalg.svd(weight.numpy(), full_matrices=False)
    new = np.diag(u.T @ delta.effective_weight(weight, 1.0).detach().numpy() @ v.T)
    assert new.min() == pytest.approx(0.0, abs=1e-12)
    assert_close(torch.from_numpy(new.copy()), (delta.s + delta.d).clamp_min(0).detach())


@pytest.mark.parametrize("link", MOVES)
def test_gradients_are_those_of_finite_differences(link: str) -> None:
    delta, _ = prepared(SITES[0], link)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, d: torch.func.functional_call(delta, {"d": d}, (x, SCALE)), (x, delta.d))


@pytest.mark.parametrize("link", MOVES)
def test_zero_shifts_change_nothing_exactly(link: str) -> None:
    delta, weight = prepared(SITES[0], link)
    assert not delta.is_zero()
    torch.nn.init.zeros_(delta.d)
    assert delta.is_zero()
    assert not delta(torch.randn(3, 5, dtype=torch.float64), SCALE).any()
    assert torch.equal(delta.effective_weight(weight, SCALE), weight)


def test_the_decomposition_is_one_whatever_signs_the_library_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    u, s, v = decompose(weight)
    assert_close(u @ torch.diag(s) @ v, weight)
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    monkeypatch.setattr(torch.linalg, "svd", lambda matrix, full_matrices: (u * signs, s, signs[:, None] * v))
    again = decompose(weight)
    assert torch.equal(again[0], u)
    assert torch.equal(again[2], v)
    assert (u.gather(0, u.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_what_is_derived_follows_copies_and_dtypes_but_is_not_saved() -> None:
    delta, weight = prepared(SITES[0])
    assert set(delta.state_dict()) == {"d"}
    twin = copy.deepcopy(delta).float()
    assert twin.u.dtype == torch.float32
    assert twin.u.data_ptr() != delta.u.data_ptr()
    assert_close(twin.dense().double(), dense(weight, delta.d, "linear"), rtol=1e-4, atol=1e-4)


def test_an_unknown_link_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"link: square cannot be used here.*"):
        methods.get("svdiff").resolve(AdapterSection(method="svdiff", options={"link": "square"}))
