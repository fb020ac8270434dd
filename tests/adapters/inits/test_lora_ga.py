"""LoRA-GA: singular vectors of the gradient, by numpy's SVD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.site import Site

GRADIENT = torch.randn(10, 7, generator=torch.Generator().manual_seed(1))


def started(rank: int) -> Delta:
    delta: Delta = deltas.get("low_rank")(Site("m", 0, "q", 7, 10, "linear"), rank)
    inits.get("lora_ga")(delta, InitContext(torch.zeros(10, 7), 2.0, torch.Generator(), gradient=GRADIENT))
    return delta


@pytest.mark.parametrize(("rank", "places"), [(3, [3, 4, 5]), (2, [2, 3]), (5, [2, 3, 4, 5, 6])])
def test_a_is_the_first_directions_and_b_the_next(rank: int, places: list[int]) -> None:
    """Five of seven directions leave but two: B takes the last five."""
    delta = started(rank)
    u, _, v = np.linalg.svd(GRADIENT.double().numpy())
    a = torch.tensor(10**0.25 / 4 * v[:rank])
    b = torch.tensor(10**0.25 / 4 * u[:, places])
    assert_close(delta.A.detach().abs().double(), a.abs(), rtol=1e-4, atol=1e-5)
    assert_close(delta.B.detach().abs().double(), b.abs(), rtol=1e-4, atol=1e-5)


def test_the_first_step_moves_w_along_the_gradients_first_directions() -> None:
    """A moves by B^T G and B by G A^T, so W by B B^T G + G A^T A: the first 2r triplets, times out^(1/2) / gamma."""
    delta = started(2)
    a, b = delta.A.detach().double(), delta.B.detach().double()
    gradient = GRADIENT.double()
    step = b @ (b.T @ gradient) + (gradient @ a.T) @ a
    u, s, v = (torch.tensor(part) for part in np.linalg.svd(gradient.numpy(), full_matrices=False))
    weights = torch.tensor([10**0.5 / 16] * 4 + [0] * 3, dtype=torch.float64)
    assert_close(step, (u * s * weights) @ v, rtol=1e-4, atol=1e-4)
