"""LQ-LoRA's weighted turns, by numpy's SVD and bitsandbytes' own rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.quantised import Quantisation
from lorakit.backbone.site import Site

RANK, OUT, IN, SCALE = 4, 48, 64, 5 / 3
SITE = Site("m", 0, "q", IN, OUT, "linear")


@pytest.fixture(autouse=True)
def _library() -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")


def a_weight() -> torch.Tensor:
    return torch.randn(OUT, IN, generator=torch.Generator().manual_seed(1))


def steep() -> torch.Tensor:
    """A Fisher information whose rows and columns differ by some powers of ten."""
    draw = torch.Generator().manual_seed(1)
    rows, columns = torch.randn(OUT, 1, generator=draw), torch.randn(1, IN, generator=draw)
    return torch.exp(2 * rows + 2 * columns) * torch.rand(OUT, IN, generator=draw)


def rounded(weight: np.ndarray) -> np.ndarray:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    codes, state = quantize_4bit(torch.tensor(weight, dtype=torch.float32), blocksize=64, quant_type="nf4")
    dense: np.ndarray = dequantize_4bit(codes, state).double().numpy()
    return dense


def started(fisher: torch.Tensor, steps: int) -> tuple[Delta, torch.Tensor]:
    """The delta at its start, and the weight that its module has then."""
    module, how = nn.Linear(IN, OUT).requires_grad_(False), Quantisation("nf4")
    delta = deltas.get("low_rank")(SITE, RANK)
    context = InitContext(
        a_weight(),
        SCALE,
        torch.Generator(),
        fisher=fisher,
        quantise=lambda wanted: how.put(module, wanted),
        steps=steps,
    )
    inits.get("lq_fisher")(delta, context)
    return delta, module.weight


def turns(fisher: torch.Tensor, steps: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """(weighted error, s B A, Q) of each turn."""
    weight, weights = a_weight().double().numpy(), fisher.double().numpy()
    rows, columns = np.sqrt(weights.mean(axis=1))[:, None], np.sqrt(weights.mean(axis=0))[None]
    kept, found = np.zeros((OUT, IN)), []
    for _ in range(steps):
        u, s, v = np.linalg.svd(rows * (weight - kept) * columns, full_matrices=False)
        update = (u[:, :RANK] * s[:RANK]) @ v[:RANK] / rows / columns
        kept = rounded(weight - update)
        found.append((float(np.linalg.norm(np.sqrt(weights) * (weight - update - kept))), update, kept))
    return found


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_turn_before_the_error_rises(steps: int) -> None:
    delta, kept = started(steep(), steps)
    found = turns(steep(), steps)
    errors = [error for error, _, _ in found]
    rise = next((turn for turn in range(1, steps) if errors[turn] > errors[turn - 1]), steps)
    assert (rise < steps) == (steps == 5)
    _, update, expected = found[rise - 1]
    assert_close(SCALE * delta.dense().detach().double(), torch.tensor(update), rtol=1e-3, atol=1e-3)
    assert_close(kept.double(), torch.tensor(expected), rtol=1e-3, atol=1e-3)


def test_what_the_loss_minds_is_nearer_than_without_weights() -> None:
    weight, fisher = a_weight(), steep()
    errors = []
    for seen in (fisher, torch.ones_like(fisher)):
        delta, kept = started(seen, 5)
        errors.append(float((fisher.sqrt() * (weight - kept - SCALE * delta.dense().detach())).norm()))
    assert errors[0] < 0.9 * errors[1]


def test_rows_and_weights_without_a_gradient_leave_finite_factors() -> None:
    fisher = steep()
    fisher[3] = 0
    for seen in (fisher, torch.zeros_like(fisher)):
        delta, kept = started(seen, 3)
        assert delta.dense().isfinite().all()
        assert kept.isfinite().all()
