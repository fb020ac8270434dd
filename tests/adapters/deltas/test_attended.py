"""LoRAs weighed by an attention, against each token's sum by hand, in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.attended import Attended
from lorakit.backbone.site import Site

SITE = Site("m", 0, "q", 6, 9, "linear")
EACH, LORAS, SCALE = 2, 3, 1.7
FUNCTIONS = {"tanh": math.tanh, "relu": lambda z: max(z, 0.0)}


def build(activation: str = "tanh") -> Attended:
    torch.manual_seed(0)
    delta = Attended(SITE, EACH * LORAS, {"each": EACH, "activation": activation}).double()
    for parameter in delta.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return delta


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_every_token_has_its_own_sum(activation: str) -> None:
    delta = build(activation)
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    rows = []
    for token in x.reshape(-1, 6):
        parts = [slice(EACH * e, EACH * (e + 1)) for e in range(LORAS)]
        said = [SCALE * delta.B.detach()[:, own] @ (delta.A.detach()[own] @ token) for own in parts]
        exponents = [math.exp(FUNCTIONS[activation](float(delta.R.detach()[e] @ said[e]))) for e in range(LORAS)]
        rows.append(sum(z * h for z, h in zip(exponents, said, strict=True)) / (1 + sum(exponents)))
    assert_close(delta(x, SCALE), torch.stack(rows).view(2, 4, 9))
    assert torch.autograd.gradcheck(lambda *tensors: delta(x, SCALE), tuple(delta.parameters()))


def test_loras_that_say_nothing_share_with_the_zero_one() -> None:
    """Of three with B_3 = 0 the third has exp(0), as the zero LoRA."""
    delta = build()
    torch.nn.init.zeros_(delta.R)
    x = torch.randn(5, 6, dtype=torch.float64)
    assert_close(delta(x, SCALE), SCALE / 4 * x @ delta.A.T @ delta.B.T)
    alone = Attended(SITE, EACH, {}).double()
    assert alone.R.shape == (1, 9)
    assert_close(alone.weights(torch.randn(5, 1, EACH, dtype=torch.float64)), torch.full((5, 1), 0.5).double())


def test_counts_and_ranks() -> None:
    shapes = Attended.shapes(SITE, EACH * LORAS, {"each": EACH})
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == EACH * LORAS * (6 + 9) + LORAS * 9
    assert Attended.misfit(6, {"each": 2}) == ""
    assert "no whole number of LoRAs of 4" in Attended.misfit(6, {"each": 4})
