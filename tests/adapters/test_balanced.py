"""The balanced form of a product: the same matrix, orthogonal units, and gradients that are those of the new factors."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.balanced import balance

OUT, IN, RANK = 7, 5, 3


def factors(seed: int = 0, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(OUT, rank, generator=generator, dtype=torch.double),
        torch.randn(rank, IN, generator=generator, dtype=torch.double),
    )


def gradients(b: torch.Tensor, a: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of a loss that depends on the product alone."""
    b, a = b.clone().requires_grad_(), a.clone().requires_grad_()
    target = torch.linspace(-1, 1, OUT * IN, dtype=torch.double).view(OUT, IN)
    return torch.autograd.grad(((b @ a - target) ** 3).sum(), (b, a))


def test_same_product_with_the_singular_value_decomposition_s_own_units() -> None:
    b, a = factors()
    found = balance(b, a)
    u, values, vt = torch.linalg.svd(b @ a)
    assert_close(found.values, values[:RANK])
    assert_close(found.b @ found.a, b @ a)
    for unit in range(RANK):
        expected = values[unit] * torch.outer(u[:, unit], vt[unit])
        assert_close(torch.outer(found.b[:, unit], found.a[unit]), expected)
    assert_close(found.b.norm(dim=0), found.a.norm(dim=1))
    assert_close(b @ found.turn, found.b)
    assert_close(found.back @ a, found.a)
    assert_close(found.turn @ found.back, torch.eye(RANK, dtype=torch.double))


def test_first_units_are_the_best_approximation() -> None:
    """Eckart & Young: its error is the norm of the singular values left out."""
    b, a = factors()
    found = balance(b, a)
    rest = torch.linalg.svdvals(b @ a)[2:].norm()
    assert_close((b @ a - found.b[:, :2] @ found.a[:2]).norm(), rest)


def test_weighted_units_are_the_best_approximation_where_entries_count_by_weights() -> None:
    b, a = factors()
    g, c = torch.linspace(0.1, 3, OUT, dtype=torch.double), torch.linspace(2, 0.2, IN, dtype=torch.double)
    found = balance(b, a, g, c)
    assert_close(found.b @ found.a, b @ a)
    assert_close(found.turn @ found.back, torch.eye(RANK, dtype=torch.double))
    assert_close(found.b.norm(dim=0), found.a.norm(dim=1))
    rest = torch.linalg.svdvals(g[:, None] * (b @ a) * c)
    assert_close(found.values, rest[:RANK])
    error = b @ a - found.b[:, :2] @ found.a[:2]
    assert_close((g[:, None] * error * c).norm(), rest[2:].norm())
    old, new = gradients(b, a), gradients(found.b, found.a)
    assert_close(found.mean_of_b(old[0]), new[0])
    assert_close(found.mean_of_a(old[1]), new[1])


def test_means_of_gradients_are_those_of_the_new_factors() -> None:
    b, a = factors()
    found = balance(b, a)
    old, new = gradients(b, a), gradients(found.b, found.a)
    assert_close(found.mean_of_b(old[0]), new[0])
    assert_close(found.mean_of_a(old[1]), new[1])


def test_squares_are_those_of_uncorrelated_units() -> None:
    """Over many draws with independent units, the mean square of the mapped gradients."""
    b, a = factors()
    found = balance(b, a)
    generator = torch.Generator().manual_seed(1)
    scale = torch.tensor([1.0, 2.0, 0.5], dtype=torch.double)
    drawn = torch.randn(20000, RANK, generator=generator, dtype=torch.double) * scale  # one column of A, one row of B
    of_a = (drawn @ found.turn).square().mean(dim=0)
    of_b = (drawn @ found.back.T).square().mean(dim=0)
    squares = scale.square()[None]
    assert_close(found.square_of_a(squares.T).T[0], of_a, rtol=0.05, atol=0.0)
    assert_close(found.square_of_b(squares)[0], of_b, rtol=0.05, atol=0.0)


def test_a_step_grows_at_most_by_the_root_of_the_rank() -> None:
    """|m| <= sqrt(v) before gives |m'| <= sqrt(r v') after, also where all units agree."""
    b, a = factors()
    found = balance(b, a)
    m = torch.ones(RANK, IN, dtype=torch.double)
    assert (found.mean_of_a(m).abs() <= (RANK * found.square_of_a(m.square())).sqrt() + 1e-12).all()
    n = torch.ones(OUT, RANK, dtype=torch.double)
    assert (found.mean_of_b(n).abs() <= (RANK * found.square_of_b(n.square())).sqrt() + 1e-12).all()


def test_a_unit_without_direction_gets_no_moment_and_the_mean_of_the_squares() -> None:
    b, a = (tensor.float() for tensor in factors(rank=2))
    b, a = torch.cat([b, b[:, :1]], dim=1), torch.cat([a, a[:1]])  # rank 2 in three units
    found = balance(b, a)
    assert found.has_direction.tolist() == [True, True, False]
    assert_close((found.b @ found.a).float(), b @ a)
    ones = torch.ones_like(a)
    assert not found.mean_of_a(ones)[2].any()
    squares = found.square_of_a(ones)
    assert squares[2].unique().item() == pytest.approx(squares[:2].mean().item())


def test_nothing_is_found_of_a_zero_product() -> None:
    b, a = factors()
    found = balance(torch.zeros_like(b), a)
    assert not found.values.any()
    assert not found.has_direction.any()
    assert all(part.isfinite().all() for part in (found.turn, found.back, found.square_of_a(torch.ones_like(a))))
