"""CorDA: the singular triplets of W C with C taken out again, by numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.adapters.inits import corda_ipm
from lorakit.backbone.site import Site

RANK, SCALE = 3, 5 / 3
SITE = Site("m", 0, "q", 7, 10, "linear")
WEIGHT = torch.randn(10, 7, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randn(50, 7, generator=torch.Generator().manual_seed(2)) * torch.arange(1, 8)


def started(name: str, covariance: torch.Tensor) -> Delta:
    delta: Delta = deltas.get("low_rank")(SITE, RANK)
    inits.get(name)(delta, InitContext(WEIGHT, SCALE, torch.Generator(), covariance=covariance))
    return delta


def by_numpy(chosen: tuple[int, ...]) -> Any:
    """U diag(S) V C^-1 of the chosen triplets of W C, C = mean of x x^T + 0.01 mean(diag) 1."""
    x = TOKENS.double().numpy()
    c = sum(np.outer(row, row) for row in x) / len(x)
    c = c + 0.01 * np.diag(c).mean() * np.eye(7)
    u, s, v = np.linalg.svd(WEIGHT.double().numpy() @ c)
    return torch.tensor(sum(s[k] * np.outer(u[:, k], v[k]) for k in chosen) @ np.linalg.inv(c))


@pytest.mark.parametrize(("name", "chosen"), [("corda_ipm", (0, 1, 2)), ("corda_kpm", (4, 5, 6))])
def test_the_chosen_triplets_of_w_c(name: str, chosen: tuple[int, ...]) -> None:
    delta = started(name, TOKENS.T @ TOKENS / len(TOKENS))
    expected = by_numpy(chosen)
    assert_close(SCALE * delta.dense().detach().double(), expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))
    gram = (delta.B.T @ delta.B).detach()
    assert_close(gram, torch.diag(gram.diagonal()), rtol=1e-4, atol=1e-4 * float(gram.max()))


def test_the_unit_of_the_inputs_does_not_matter() -> None:
    covariance = TOKENS.T @ TOKENS / len(TOKENS)
    one, other = started("corda_ipm", covariance), started("corda_ipm", covariance * 400)
    assert_close(one.A, other.A, rtol=1e-4, atol=1e-4)
    assert_close(one.B, other.B, rtol=1e-4, atol=1e-4)


def test_inputs_that_are_all_alike_weigh_all_directions_alike() -> None:
    delta, pissa = started("corda_ipm", torch.eye(7)), started("pissa", torch.eye(7))
    assert_close(delta.dense(), pissa.dense(), rtol=1e-4, atol=1e-5)


def test_inputs_that_are_never_seen_count_as_all_alike() -> None:
    assert_close(
        started("corda_ipm", torch.zeros(7, 7)).dense(),
        started("corda_ipm", torch.eye(7)).dense(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_damping_is_doubled_until_the_inverse_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs that all point one way are the hardest to invert in float32; half the allowed error needs more than 0.01."""
    flat, eye = torch.ones(400, 400), torch.eye(400)

    def error(damping: float) -> float:
        damped = flat + damping * eye
        return float(torch.dist(damped @ torch.linalg.inv(damped), eye))

    allowed = 0.5 * error(0.01)
    dampings = [0.01 * 2**k for k in range(10)]
    expected = next(damping for damping in dampings if error(damping) < allowed)
    assert expected > 0.01
    monkeypatch.setattr(corda_ipm, "LARGEST_ERROR", allowed)
    damped, inverse = corda_ipm.inverted(flat)
    assert_close(damped.diagonal(), torch.full((400,), 1 + expected))
    assert torch.dist(damped @ inverse, eye) < allowed
