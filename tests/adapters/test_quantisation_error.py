"""The correction against numpy's singular values: no product of its rank is nearer (Eckart and Young 1936)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.quantisation_error import low_rank_error

ERROR = np.random.default_rng(0).normal(size=(7, 5))
DRAW = torch.Generator()
MAGNITUDES = np.array([0.01, 3.0, 1.0, 0.5, 20.0])


def left(weights: np.ndarray, rank: int) -> float:
    """What of the weighted error no product of this rank can take away."""
    return float(np.sqrt((np.linalg.svd(ERROR * weights, compute_uv=False)[rank:] ** 2).sum()))


@pytest.mark.parametrize("magnitudes", [None, MAGNITUDES])
@pytest.mark.parametrize("rank", [1, 3])
def test_it_is_the_nearest_of_its_rank(magnitudes: np.ndarray | None, rank: int) -> None:
    weights = np.ones(5) if magnitudes is None else magnitudes
    b, a = low_rank_error(torch.tensor(ERROR), rank, DRAW, None if magnitudes is None else torch.tensor(magnitudes))
    assert (b.shape, a.shape) == ((7, rank), (rank, 5))
    rest = (ERROR - (b @ a).numpy()) * weights
    assert np.linalg.norm(rest) == pytest.approx(left(weights, rank), rel=1e-9)


def test_magnitudes_turn_it_towards_inputs_that_are_large() -> None:
    plain, weighted = (low_rank_error(torch.tensor(ERROR), 1, DRAW, m) for m in (None, torch.tensor(MAGNITUDES)))
    rests = [np.linalg.norm(ERROR[:, 4] - (b @ a)[:, 4].numpy()) for b, a in (plain, weighted)]
    assert rests[1] < 0.5 * rests[0]
    again = low_rank_error(torch.tensor(ERROR), 1, DRAW, 7 * torch.tensor(MAGNITUDES))
    assert_close(again[0] @ again[1], weighted[0] @ weighted[1])


def test_an_input_that_is_never_there_is_no_division_by_zero() -> None:
    b, a = low_rank_error(torch.tensor(ERROR), 5, DRAW, torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]))
    assert_close(b @ a, torch.tensor(ERROR), rtol=1e-6, atol=1e-6)
