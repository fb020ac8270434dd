"""The measures against numpy and scipy, and where their values follow from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.stats import pearsonr

from lorakit.reporting.analysis.measures import (
    chance_similarity,
    change,
    correlation,
    directions_of,
    effective_rank,
    emphasis,
    linear_cka,
    random_update,
    rows_of,
    similarity,
)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basis(width: int, count: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(gaussian(width, count, seed=seed)).Q


@pytest.mark.parametrize("rank", [1, 3, 20])
def test_factors_and_their_product_have_the_same_directions(rank):
    b, a = gaussian(12, rank), gaussian(rank, 9, seed=1)
    thin, whole = directions_of((b, a)), directions_of(b @ a)
    expected = np.linalg.svd((b @ a).numpy(), compute_uv=False)[: min(rank, 9)]
    for found in (thin, whole):
        np.testing.assert_allclose(found.values, expected, rtol=1e-9)
        assert found.rank == found.count == min(rank, 9)
        np.testing.assert_allclose(found.u * found.values @ found.v.T, b @ a, atol=1e-9)


def test_a_singular_value_within_float32s_rounding_is_none():
    u, v = basis(16, 3), basis(10, 3, seed=1)
    for third, rank in ((1e-5, 3), (1e-8, 2)):
        assert directions_of(u * torch.tensor([2.0, 1.0, third]) @ v.T).rank == rank
    assert directions_of((torch.zeros(4, 2), gaussian(2, 4))).rank == 0


def test_at_most_64_directions_are_kept_and_all_values():
    found = directions_of(gaussian(80, 90))
    assert (found.rank, found.count, found.u.shape, found.v.shape) == (80, 64, (80, 64), (90, 64))


def test_the_rows_of_a_are_its_right_singular_vectors():
    a = gaussian(4, 11)
    np.testing.assert_allclose(np.abs(np.linalg.svd(a.numpy())[2][:4] @ rows_of(a).numpy()), np.eye(4), atol=1e-9)


def test_phi_is_the_mean_squared_cosine_of_principal_angles():
    first, second = basis(20, 5), basis(20, 7, seed=1)
    phi = similarity(first, second)
    assert phi.shape == (5, 7)
    for i, j in ((1, 1), (2, 5), (5, 2), (5, 7)):
        angles = subspace_angles(first[:, :i].numpy(), second[:, :j].numpy())
        assert phi[i - 1, j - 1] == pytest.approx(np.mean(np.cos(angles) ** 2))


def test_phi_of_one_subspace_is_1_whatever_its_basis_and_of_orthogonal_ones_0():
    whole = basis(12, 8)
    turned = whole[:, :4] @ basis(4, 4, seed=1)
    assert similarity(whole[:, :4], turned)[3, 3] == pytest.approx(1)
    np.testing.assert_allclose(np.diag(similarity(whole[:, :4], whole[:, :4])), 1)
    np.testing.assert_allclose(similarity(whole[:, :4], whole[:, 4:]), 0, atol=1e-20)


def test_random_subspaces_have_the_phi_that_chance_says():
    drawn = np.mean([similarity(basis(15, 3, seed=n), basis(15, 5, seed=1000 + n)) for n in range(400)], axis=0)
    np.testing.assert_allclose(chance_similarity(3, 5, 15), drawn, rtol=0.15)
    assert chance_similarity(2, 3, 10).tolist() == pytest.approx(np.array([[0.1, 0.2, 0.3], [0.2, 0.2, 0.3]]))


def test_effective_rank_is_the_exponential_of_the_entropy():
    assert effective_rank(torch.full((5,), 0.3)) == pytest.approx(5)
    assert effective_rank(torch.tensor([4.0])) == pytest.approx(1)
    shares = np.array([3.0, 2.0, 1.0]) / 6
    assert effective_rank(torch.tensor([3.0, 2.0, 1.0])) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_emphasis_of_w_in_the_directions_of_its_update():
    weight, update = gaussian(14, 10), gaussian(14, 3, seed=1) @ gaussian(3, 10, seed=2)
    found = emphasis(weight, directions_of(update))
    u, _, vh = np.linalg.svd(update.numpy(), full_matrices=False)
    assert found.own == pytest.approx(np.linalg.norm(u[:, :3].T @ weight.numpy() @ vh[:3].T))
    assert found.top == pytest.approx(np.linalg.norm(np.linalg.svd(weight.numpy(), compute_uv=False)[:3]))
    drawn = [torch.linalg.norm(basis(14, 3, seed=n).T @ weight @ basis(10, 3, seed=500 + n)) for n in range(300)]
    assert found.chance == pytest.approx(np.sqrt(np.mean(np.square(drawn))), rel=0.1)


def test_an_update_that_repeats_w_is_in_ws_strongest_directions():
    weight = gaussian(9, 7)
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    found = emphasis(weight, directions_of(0.1 * u[:, :2] * s[:2] @ vh[:2]))
    assert found.own == pytest.approx(found.top)


def test_magnitude_and_direction():
    before, after = gaussian(6, 5), gaussian(6, 5, seed=1)
    old, new = np.linalg.norm(before, axis=1), np.linalg.norm(after, axis=1)
    cosines = (before.numpy() * after.numpy()).sum(axis=1) / old / new
    assert change(before, after) == pytest.approx((np.abs(new - old).mean(), (1 - cosines).mean()))
    assert change(before, 1.5 * before) == pytest.approx((0.5 * old.mean(), 0), abs=1e-12)
    assert change(before, before @ basis(5, 5)) == pytest.approx(
        (0, change(before, before @ basis(5, 5))[1]), abs=1e-12
    )


def test_a_row_of_zeros_has_no_direction():
    before = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert change(before, torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == (0.5, 1.0)
    assert change(torch.zeros(1, 2), torch.ones(1, 2)) == pytest.approx((2**0.5, 0))


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_a_random_update_has_its_rank_and_norm_1(rank):
    drawn = random_update((8, 10), rank, torch.Generator().manual_seed(0))
    assert (np.linalg.matrix_rank(drawn.numpy()), float(drawn.norm())) == (rank, pytest.approx(1))


def test_correlation_is_pearsons():
    first, second = [1.0, 2.0, 4.0, 3.0], [2.0, 1.0, 5.0, 2.0]
    assert correlation(first, second) == pytest.approx(pearsonr(first, second).statistic)
    assert correlation([1.0, 2.0], [1.0, 2.0]) is None
    assert correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_linear_cka_is_1_for_a_rotation_and_its_formula_otherwise():
    x, y = gaussian(30, 4), gaussian(30, 6, seed=1) + 3
    assert linear_cka(x, 2.5 * x @ basis(4, 4) + 1)[0] == pytest.approx(1)
    xc, yc = (features.numpy() - features.numpy().mean(axis=0) for features in (x, y))
    norm = np.linalg.norm
    expected = norm(yc.T @ xc) ** 2 / norm(xc.T @ xc) / norm(yc.T @ yc)
    assert linear_cka(x, y)[0] == pytest.approx(expected)


def test_rows_that_do_not_belong_together_have_what_independent_features_have():
    x = gaussian(60, 20)
    independent = np.mean([linear_cka(x, gaussian(60, 20, seed=n))[0] for n in range(1, 20)])
    assert linear_cka(x, x) == (pytest.approx(1), pytest.approx(independent, rel=0.1))
