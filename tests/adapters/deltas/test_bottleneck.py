"""Both bottlenecks, dense and of tensor trains, against the layer written out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lorakit.adapters.deltas.bottleneck import Bottleneck
from lorakit.adapters.deltas.tensor_train_bottleneck import TensorTrainBottleneck
from lorakit.backbone.site import Site

SITE = Site("m", 0, "o", 5, 12, "linear")
WIDTH = 4
G = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "relu": lambda x: x.clamp_min(0),
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


def layer_of(base: nn.Linear) -> Any:
    return SimpleNamespace(frozen_forward=base.__call__)


def matrices(delta: Bottleneck) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(delta, TensorTrainBottleneck):  # 4 and 12 are one digit each
        return (delta.D0[0] @ delta.D1[:, :, 0]), (delta.U0[0] @ delta.U1[:, :, 0])
    return delta.D, delta.U


@pytest.mark.parametrize("kind", [Bottleneck, TensorTrainBottleneck])
@pytest.mark.parametrize("activation", G)
def test_the_layer_and_its_gradients(kind: type[Bottleneck], activation: str) -> None:
    torch.manual_seed(0)
    base = nn.Linear(5, 12).double()
    delta = kind(SITE, WIDTH, {"activation": activation}).double()
    for parameter in delta.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    y = base(x)
    down, up = matrices(delta)
    expected = y + G[activation](y @ down.T + delta.b_down) @ up.T + delta.b_up
    assert_close(delta.layer_forward(layer_of(base), x, 1.0), expected)
    assert torch.autograd.gradcheck(
        lambda x, *tensors: delta.layer_forward(layer_of(base), x, 1.0), (x, *delta.parameters())
    )


@pytest.mark.parametrize("kind", [Bottleneck, TensorTrainBottleneck])
def test_it_starts_as_nothing_and_is_stuck_without_u(kind: type[Bottleneck]) -> None:
    delta = kind(SITE, WIDTH)
    delta.put_at_start(torch.Generator().manual_seed(0))
    down, up = matrices(delta)
    assert down.any()
    assert not up.any()
    assert not delta.b_down.any()
    assert delta.is_zero()
    nn.init.ones_(delta.b_down)
    assert delta.is_zero()  # U is still zero
    nn.init.ones_(delta.b_up)
    assert not delta.is_zero()
    assert kind.stuck(lambda role: role != "B").startswith("U")
    assert kind.stuck(lambda role: role == "B") == ""


def test_d_starts_truncated_at_two_deviations() -> None:
    delta = Bottleneck(Site("m", 0, "o", 5, 400, "linear"), 64)
    delta.put_at_start(torch.Generator().manual_seed(0))
    assert 0.0199 < delta.D.abs().max() <= 0.02
    # a standard normal cut off at +-2 has variance 1 - 2 * 2 phi(2) / (2 Phi(2) - 1)
    phi, inside = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
    assert abs(delta.D.std() / 0.01 - math.sqrt(1 - 4 * phi / inside)) < 0.01


@pytest.mark.parametrize("kind", [Bottleneck, TensorTrainBottleneck])
def test_a_half_precision_layer_is_adapted_in_float32(kind: type[Bottleneck]) -> None:
    torch.manual_seed(0)
    base = nn.Linear(5, 12).bfloat16()
    delta = kind(SITE, WIDTH)
    for parameter in delta.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 5, dtype=torch.bfloat16)
    y = base(x)
    down, up = matrices(delta)
    added = G["gelu"](y.float() @ down.T + delta.b_down) @ up.T + delta.b_up
    out = delta.layer_forward(layer_of(base), x, 1.0)
    assert out.dtype == torch.bfloat16
    assert_close(out, y + added.bfloat16())


def test_counts() -> None:
    shapes = Bottleneck.shapes(SITE, WIDTH)
    assert sum(math.prod(shape) for shape in shapes.values()) == 2 * WIDTH * 12 + 12 + WIDTH
    trains = TensorTrainBottleneck.shapes(SITE, WIDTH, {"tensor_rank": 3})
    assert sum(math.prod(shape) for shape in trains.values()) == 2 * (4 * 3 + 3 * 12) + 12 + WIDTH
