"""Gated dense updates: the hard-concrete gate by its formula and by its known probabilities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.delta import deltas
from lorakit.backbone.site import Site

SCALE = 1.7
SITE = Site("m", 0, "q", 5, 7, "linear")


def random_gates(site: Site = SITE) -> Any:
    """The delta in evaluation mode with random tensors, gates shut, open and between."""
    delta = deltas.get("sparse")(site, 1).double().eval()
    generator = torch.Generator().manual_seed(1)
    torch.nn.init.normal_(delta.w, generator=generator)
    torch.nn.init.normal_(delta.gate, std=2.0, generator=generator)
    return delta


def gate_by_hand(logit: float) -> float:
    """l = -1.5, r = 1.5."""
    return min(1.0, max(0.0, 1 / (1 + math.exp(-logit)) * (1.5 - -1.5) + -1.5))


def test_forward_is_the_dense_product() -> None:
    delta = random_gates()
    gates = torch.tensor([[gate_by_hand(logit) for logit in row] for row in delta.gate.tolist()], dtype=torch.float64)
    assert {bool(gates.min() == 0), bool(gates.max() == 1), bool(((gates > 0) & (gates < 1)).any())} == {True}
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    assert_close(delta.dense(), gates * delta.w)
    assert_close(delta(x, SCALE), SCALE * torch.einsum("oi,bti->bto", gates * delta.w, x))
    assert delta.factors() is None
    assert delta.shapes(SITE, 1) == {"w": (7, 5), "gate": (7, 5)}


def test_gradients_are_those_of_finite_differences() -> None:
    delta = random_gates()
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def forward(x: torch.Tensor, w: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(delta, {"w": w, "gate": gate}, (x, SCALE))

    assert torch.autograd.gradcheck(forward, (x, delta.w, delta.gate))


def drawn(logit: float, number: int = 40_000) -> torch.Tensor:
    """Gates as training draws them, read off the output for w = 1 and a one-hot input."""
    delta = deltas.get("sparse")(Site("m", 0, "q", 1, number, "linear"), 1).train()
    torch.nn.init.ones_(delta.w)
    torch.nn.init.constant_(delta.gate, logit)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return delta(torch.ones(1), 1.0).detach()


@pytest.mark.parametrize("logit", [-1.0, 0.0, 2.0])
def test_drawn_gates_have_the_known_distribution(logit: float) -> None:
    gates = drawn(logit)
    # z <= c where sigmoid(noise + logit) <= (c - l) / (r - l), and noise is logistic: P = sigmoid(logit(.) - logit)
    for point in (0.0, 0.3, 0.7):
        share = (point + 1.5) / 3.0
        expected = 1 / (1 + math.exp(-(math.log(share / (1 - share)) - logit)))
        assert float((gates <= point).float().mean()) == pytest.approx(expected, abs=0.01)
    assert float(gates.min()) == 0.0
    assert float(gates.max()) == 1.0


@pytest.mark.parametrize("logit", [-1.0, 0.0, 2.0])
def test_the_expected_number_of_open_gates(logit: float) -> None:
    delta = deltas.get("sparse")(Site("m", 0, "q", 100, 400, "linear"), 1)
    torch.nn.init.constant_(delta.gate, logit)
    share = float((drawn(logit) > 0).float().mean())
    assert delta.expected_open().item() / 40_000 == pytest.approx(share, abs=0.01)


def test_gates_start_open_and_the_update_at_zero() -> None:
    delta = deltas.get("sparse")(SITE, 1)
    delta.put_at_start(torch.Generator())
    assert delta.is_zero()
    assert torch.equal(delta.gate, torch.full((7, 5), 5.0))
    assert not delta(torch.randn(3, 5), SCALE).any()


def test_what_is_kept_stays_whatever_the_noise_and_the_rest_gets_no_gradient() -> None:
    delta = random_gates().float().train()
    before = delta.dense().detach()
    kept = torch.rand(7, 5, generator=torch.Generator().manual_seed(4)) < 0.4
    delta.keep_only(kept)
    x = torch.randn(100, 5)
    assert_close(delta(x, SCALE), SCALE * x @ (before * kept).T)
    assert torch.equal(delta.w != 0, kept & (before != 0))
    delta(x, SCALE).square().sum().backward()
    assert not delta.w.grad[~kept].any()
    assert not delta.gate.grad.any()
    torch.nn.init.ones_(delta.w)
    assert torch.equal(delta.dense(), kept.float())
