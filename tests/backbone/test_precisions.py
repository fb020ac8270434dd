"""The integer programme against all assignments, and its budget by the bytes that are kept."""

from __future__ import annotations

from ctypes import CDLL
from itertools import product
from unittest import mock

import numpy as np
import pytest
import torch

from lorakit.backbone.few_bits import dense, round_to
from lorakit.backbone.precisions import (
    PRECISIONS,
    assign,
    cheapest,
    nothing_printed,
    possible_bits,
    sizes_of,
    squared_error,
)
from lorakit.backbone.quantised import quantised_modules
from lorakit.errors import RecipeError, RunError

SHAPES = [(24, 64), (40, 32), (16, 160), (8, 48)]


def weights() -> dict[str, torch.Tensor]:
    """Of deviations from 0.02 to 0.3."""
    draw = torch.Generator().manual_seed(0)
    spreads = (0.02, 0.3, 0.05, 0.1)
    return {
        str(place): spread * torch.randn(*shape, generator=draw)
        for place, (shape, spread) in enumerate(zip(SHAPES, spreads, strict=True))
    }


@pytest.mark.parametrize("bits", [2.75, 3.2, 4.4, 6.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_best_of_all_assignments(bits: float, weighted: bool):
    draw = torch.Generator().manual_seed(1)
    given = weights()
    fisher = {name: torch.rand(each.shape, generator=draw) ** 4 for name, each in given.items()} if weighted else {}
    found = assign(given, bits, fisher)
    errors, sizes = np.empty((2, len(SHAPES), len(PRECISIONS)))
    for row, (name, weight) in enumerate(given.items()):
        for column, precision in enumerate(PRECISIONS):
            lost = (weight - dense(round_to(weight, precision), weight.shape[1])).double().numpy()
            errors[row, column] = ((fisher[name].double().numpy() if weighted else 1.0) * lost**2).sum()
            sizes[row, column] = precision.bytes(*weight.shape)
    every = np.array(list(product(range(len(PRECISIONS)), repeat=len(SHAPES))))
    fits = every[sizes[np.arange(len(SHAPES)), every].sum(axis=1) <= bits * sum(map(np.prod, SHAPES)) / 8]
    best = fits[errors[np.arange(len(SHAPES)), fits].sum(axis=1).argmin()]
    assert list(found.values()) == [PRECISIONS[column] for column in best]


def test_what_the_loss_minds_gets_the_bits():
    """Two matrices alike but for F."""
    weight = weights()["0"]
    fisher = {"a": torch.full_like(weight, 1e-3), "b": torch.full_like(weight, 1.0)}
    found = assign({"a": weight, "b": weight}, 3.6, fisher)
    assert found["a"].bits < found["b"].bits


def test_a_matrix_without_a_fisher_information_counts_as_the_mean_of_the_others():
    given = weights()
    fisher = {"0": torch.full(SHAPES[0], 2.0), "1": torch.full(SHAPES[1], 4.0)}
    whole = fisher | {name: torch.full(SHAPES[int(name)], 3.0) for name in ("2", "3")}
    assert assign(given, 3.2, fisher) == assign(given, 3.2, whole)


def test_errors_of_no_weight_at_all_still_fit_the_budget():
    sizes = sizes_of(SHAPES)
    budget = int(sizes.min(axis=1).sum())
    chosen = cheapest(np.zeros(sizes.shape), sizes, budget)
    assert sum(sizes[row, column] for row, column in enumerate(chosen)) == budget


def test_a_solver_that_gives_up_is_one_message():
    sizes = sizes_of(SHAPES)
    with mock.patch("scipy.optimize.milp", return_value=mock.Mock(x=None)), pytest.raises(RunError) as caught:
        cheapest(np.ones(sizes.shape), sizes, int(sizes.sum()))
    assert caught.value.problems[0].key == "model.quantization_bits"


def test_the_importance_weighs_squares():
    weight = weights()["1"]
    lost = (weight - dense(round_to(weight, PRECISIONS[0]), 32)).double()
    assert squared_error(weight, PRECISIONS[0], 4.0) == pytest.approx(4 * float(lost.square().sum()), rel=1e-5)


@pytest.mark.parametrize("bits", [3.5, 5.0, 7.5])
def test_the_bytes_that_are_kept_hold_the_budget(bits: float, tiny, load):
    backbone = load(tiny("bert"), quantization="mixed", quantization_bits=bits)
    assert backbone.to_quantise is None  # nothing waits where no start quantises
    modules = list(quantised_modules(backbone.model))
    numbers = sum(module.in_features * module.out_features for module in modules)
    taken = 8 * sum(buffer.nbytes for module in modules for buffer in module.buffers(recurse=False))
    assert len(modules) == len(backbone.anatomy.sites)
    assert bits - 0.5 < taken / numbers <= bits
    assert f"{taken / numbers:.3f} bits a number, scales and zero points counted" in backbone.notes[-1]


@pytest.mark.parametrize(("bits", "why"), [(2.0, "fewer than they can take"), (99.0, "more than they ever take")])
def test_a_budget_that_no_assignment_has_is_refused(bits: float, why: str, tiny, load):
    with pytest.raises(RecipeError, match=why) as caught:
        load(tiny("bert"), quantization="mixed", quantization_bits=bits)
    (problem,) = caught.value.problems
    fewest, most = possible_bits([(site.out_features, site.in_features) for site in load(tiny("bert")).anatomy.sites])
    low, high = map(float, str(problem.valid).split(" to "))
    assert problem.key == "model.quantization_bits"
    assert fewest <= low < fewest + 0.01
    assert most - 0.01 < high <= most


def test_what_has_no_linear_modules_is_refused(tiny, load):
    with pytest.raises(RecipeError, match="no layer of this gpt2 model has a plain Linear"):
        load(tiny("gpt2"), quantization="mixed", quantization_bits=4)


def test_what_the_solver_prints_is_not_among_a_commands_data(capfd):
    with nothing_printed():
        CDLL(None).puts(b"chatter")
    print("data")
    assert capfd.readouterr().out == "data\n"
