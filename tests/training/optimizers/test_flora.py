"""Flora: against Adafactor, and against its formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers.optimization import Adafactor

from lorakit.training.optimizers.flora import Flora, is_projected, refusals, state_bytes

SETTINGS: dict[str, Any] = {"rank": 4, "kappa": 1000, "beta": 0.9, "scale": "none", "seed": 0}


def flora(parameters: list[torch.nn.Parameter], *, lr: float = 0.01, decay: float = 0.0, **settings: Any) -> Flora:
    return Flora([{"params": parameters, "lr": lr, "weight_decay": decay}], SETTINGS | settings, 7)


def moved(optimizer: Any, parameters: list[torch.nn.Parameter], steps: int) -> list[torch.Tensor]:
    """The parameters after so many steps on gradients that are the same for every optimiser."""
    draw = torch.Generator().manual_seed(3)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = (torch.randn(parameter.shape, generator=draw) * 5).to(parameter.dtype)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("scale", ["none", "parameter"])
def test_without_momentum_it_is_adafactor(scale: str):
    """transformers' own, on matrices, vectors and a tensor of zeros."""
    draw = torch.Generator().manual_seed(0)
    start = [torch.randn(12, 9, generator=draw), torch.randn(7, generator=draw), torch.zeros(5, 6)]
    ours, theirs = ([torch.nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    reference = Adafactor(
        theirs, lr=0.01, relative_step=False, scale_parameter=scale == "parameter", weight_decay=0.1, beta1=None
    )
    mine = flora(ours, decay=0.1, beta=1e-12, scale=scale)
    for a, b in zip(moved(mine, ours, 6), moved(reference, theirs, 6), strict=True):
        assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(10, 24), (24, 10), (12, 12)])
def test_the_momentum_is_projected_and_drawn_anew(shape: tuple[int, int]):
    """By the formula, in float64: u of every step, its projection with the same P until step 3, carried over to the next P there."""
    parameter = torch.nn.Parameter(torch.zeros(shape))
    optimizer = flora([parameter], kappa=3)
    draw, tall = torch.Generator().manual_seed(3), shape[0] >= shape[1]
    row = column = torch.zeros(1, dtype=torch.double)
    momentum, expected = torch.zeros(4, max(shape), dtype=torch.double), torch.zeros(shape, dtype=torch.double)
    basis = {number: optimizer.projection(min(shape), 0, number, torch.device("cpu")).double() for number in (0, 1)}
    for step in range(1, 6):
        parameter.grad = torch.randn(shape, generator=draw)
        optimizer.step()
        g, keep = parameter.grad.double(), 1 - step**-0.8
        row = keep * row + (1 - keep) * g.square().mean(1)
        column = keep * column + (1 - keep) * g.square().mean(0)
        u = g / (row[:, None] * column[None, :] / row.mean()).sqrt()
        turned = u.T if tall else u
        before, after = basis[(step - 1) // 3], basis[step // 3]
        smooth = 0.1 * turned + 0.9 * before.T @ momentum
        carried = momentum if before is after else after @ (before.T @ momentum)
        momentum = 0.9 * carried + 0.1 * after @ turned
        smooth = smooth.T if tall else smooth
        expected -= 0.01 * smooth / max(1.0, float(smooth.square().mean().sqrt()))
    assert_close(parameter.double(), expected, rtol=1e-4, atol=1e-7)


def test_a_projection_and_back_is_the_identity_on_average():
    """E P' P = I, and E |P' P x - x|^2 = (m + 1) / r |x|^2 (moments of a Wishart matrix), over 600 draws within four standard errors."""
    m, rank, draws = 12, 4, 600
    optimizer = flora([torch.nn.Parameter(torch.zeros(m, m))], rank=rank)
    x = torch.linspace(-1, 1, m)
    back = torch.stack([(p.T @ (p @ x)) for n in range(draws) for p in [optimizer.projection(m, 0, n, x.device)]])
    error = (back - x).square().sum(1) / x.square().sum()
    assert abs(error.mean() - (m + 1) / rank) < 4 * error.std() / draws**0.5
    assert ((back.mean(0) - x).abs() < 4 * back.std(0) / draws**0.5).all()


def test_projections_differ_by_place_number_and_seed():
    optimizer = flora([torch.nn.Parameter(torch.zeros(12, 12))])
    cpu, alike = torch.device("cpu"), [{"params": [torch.nn.Parameter(torch.zeros(12, 12))]}]
    others = [Flora(alike, SETTINGS, 8), Flora(alike, SETTINGS | {"seed": 1}, 7)]
    drawn = [optimizer.projection(12, place, number, cpu) for place, number in ((0, 0), (0, 1), (1, 0))]
    drawn += [other.projection(12, 0, 0, cpu) for other in others]
    assert len({tuple(each.flatten().tolist()) for each in drawn}) == len(drawn)
    assert torch.equal(drawn[0], optimizer.projection(12, 0, 0, cpu))


@pytest.mark.parametrize(
    ("shape", "projected", "numbers"),
    [
        ((5, 20), True, 4 * 20 + 25),
        ((20, 5), True, 4 * 20 + 25),
        ((5, 21), False, 5 * 21 + 26),  # too long for its width, as embeddings are
        ((4, 8), False, 4 * 8 + 12),  # no wider than the rank
        ((5,), False, 5 + 5),
        ((5, 5, 5), False, 125 + 125),
    ],
)
def test_which_momentum_is_projected_and_what_is_kept(shape: tuple[int, ...], projected: bool, numbers: int):
    assert is_projected(shape, SETTINGS) is projected
    assert state_bytes(shape, SETTINGS) == 4 * numbers


@pytest.mark.parametrize(("kappa", "ends"), [(8, False), (7, True)])
def test_a_projection_is_changed_no_oftener_than_its_error_is_forgotten(kappa: int, ends: bool):
    """beta^(2 kappa) (1 + (m + 1) / r) is 0.957 at 8 steps, and 1.18 at 7."""
    settings = SETTINGS | {"rank": 6, "kappa": kappa}
    assert 0.9 ** (2 * kappa) * (1 + 25 / 6) == pytest.approx(1.182 if ends else 0.957, abs=1e-3)
    problems = refusals([(24, 40), (8, 8), (200, 8)], settings)
    assert [problem.valid for problem in problems] == ["kappa: at least 8"] * ends


def test_bfloat16_weights_have_a_state_of_32_bits_also_after_loading():
    weight = torch.nn.Parameter(torch.ones(8, 8, dtype=torch.bfloat16))
    optimizer = flora([weight])
    moved(optimizer, [weight], 2)
    again = flora([weight])
    again.load_state_dict(optimizer.state_dict())
    assert {value.dtype for value in again.state[weight].values() if isinstance(value, torch.Tensor)} == {torch.float32}
    assert again.state[weight]["step"] == 2
