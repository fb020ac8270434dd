"""(U_r R_U) S_r (V_r R_V)^T against the Cayley transform written out, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.adapters.products import prepared
from torch.testing import assert_close

from lorakit.adapters.deltas.singular_values import decompose
from lorakit.backbone.site import Site

SCALE, RANK = 1.7, 3
SITES = [Site("m", 0, "q", 5, 7, "linear"), Site("m", 0, "q", 7, 5, "linear")]


def rotation(above: torch.Tensor) -> np.ndarray:
    """(I - Q) (I + Q)^-1 for the three numbers above the diagonal of Q."""
    x, y, z = above.tolist()
    skew = np.array([[0, x, y], [-x, 0, z], [-y, -z, 0]])
    return (np.eye(3) - skew) @ np.linalg.inv(np.eye(3) + skew)


@pytest.mark.parametrize("site", SITES)
def test_the_function_is_the_papers(site: Site) -> None:
    delta, weight = prepared("spectral_rotational", site, RANK)
    u, s, vt = (part.numpy() for part in decompose(weight))
    left, right = rotation(delta.left), rotation(delta.right)
    assert np.allclose(left @ left.T, np.eye(RANK))
    first = (u[:, :RANK] @ left) @ np.diag(s[:RANK]) @ (vt[:RANK].T @ right).T
    new = torch.from_numpy(first + u[:, RANK:] @ np.diag(s[RANK:]) @ vt[RANK:])
    assert_close(delta.effective_weight(weight, 1.0), new)
    x = torch.randn(2, 4, site.in_features, dtype=torch.float64)
    assert_close(delta(x, SCALE), SCALE * torch.einsum("oi,bti->bto", new - weight, x))
    norms = delta.row_norms_squared(weight, weight.square().sum(dim=1), 1.0)
    assert_close(norms, new.square().sum(dim=1))
    b, a = delta.factors()
    assert b.shape[1] == a.shape[0] == RANK
    assert_close(b @ a, new - weight)


def test_rotations_keep_the_singular_values() -> None:
    delta, weight = prepared("spectral_rotational", SITES[0], RANK)
    assert_close(torch.linalg.svdvals(delta.effective_weight(weight, 1.0)), torch.linalg.svdvals(weight))


def test_gradients_are_those_of_finite_differences() -> None:
    delta, _ = prepared("spectral_rotational", SITES[0], RANK)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def forward(x: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(delta, {"left": left, "right": right}, (x, SCALE))

    assert torch.autograd.gradcheck(forward, (x, delta.left, delta.right))


def test_one_rotated_side_is_an_update() -> None:
    delta, _ = prepared("spectral_rotational", SITES[0], RANK)
    torch.nn.init.zeros_(delta.left)
    assert not delta.is_zero()
    torch.nn.init.zeros_(delta.right)
    assert delta.is_zero()
    x = torch.randn(3, 5, dtype=torch.float64)
    assert not delta(x, SCALE).any()
    delta(x, SCALE).square().sum().backward()  # at zero, so all gradients are
    delta(x, SCALE).sum().backward()
    assert delta.left.grad.any()
    assert delta.right.grad.any()


def test_the_middle_is_computed_in_full_precision_under_autocast() -> None:
    delta = prepared("spectral_rotational", SITES[0], RANK)[0].float()
    exact = delta.core()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(delta.core(), exact)
