"""Mixtures of random matrices against sums written out by hand, in double precision."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.basis import Basis
from lorakit.backbone.site import Site

SITE = Site("encoder.0.q", 0, "q", 5, 7, "linear")
OPTIONS = {"bases": 4}
SCALE = 1.7


@pytest.fixture
def delta() -> Basis:
    torch.manual_seed(0)
    built = Basis(SITE, 3, OPTIONS).double()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    return built


def by_hand(delta: Basis) -> torch.Tensor:
    a = delta.a_0 + sum(delta.a[i] * delta.a_bases[i] for i in range(4))
    b = sum(delta.b[j] * delta.b_bases[j] for j in range(4))
    return b @ a


def test_shapes() -> None:
    assert Basis.shapes(SITE, 3, OPTIONS) == {"a": (4,), "b": (4,)}
    assert Basis.shapes(SITE, 3) == {"a": (64,), "b": (64,)}


def test_forward_is_the_dense_product(delta: Basis) -> None:
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    dense = by_hand(delta)
    assert_close(delta(x, SCALE), SCALE * torch.einsum("oi,bti->bto", dense, x))
    assert_close(delta.dense(), dense)
    b, a = delta.factors()
    assert b.shape == (7, 3)
    assert_close(b @ a, dense)


def test_gradients_are_those_of_finite_differences(delta: Basis) -> None:
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def forward(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(delta, {"a": a, "b": b}, (x, SCALE))

    assert torch.autograd.gradcheck(forward, (x, delta.a, delta.b))


def test_row_norms_are_those_of_the_dense_weight(delta: Basis) -> None:
    weight = torch.randn(7, 5, dtype=torch.float64)
    expected = torch.linalg.vector_norm(weight + SCALE * by_hand(delta), dim=1)
    assert_close(delta.row_norms_squared(weight, (weight**2).sum(dim=1), SCALE).sqrt(), expected)


def test_it_is_neutral_exactly_while_b_is_zero(delta: Basis) -> None:
    assert not delta.is_zero()
    torch.nn.init.zeros_(delta.a)
    assert not delta.is_zero()
    torch.nn.init.zeros_(delta.b)
    assert delta.is_zero()
    assert not delta.dense().any()


def test_random_matrices_come_from_the_site_and_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = Basis(SITE, 3, OPTIONS)
    torch.manual_seed(2)
    again = Basis(SITE, 3, OPTIONS)
    other_seed = Basis(SITE, 3, OPTIONS | {"seed": 1})
    elsewhere = Basis(Site("encoder.1.q", 1, "q", 5, 7, "linear"), 3, OPTIONS)
    for name, matrix in first.named_buffers():
        assert torch.equal(matrix, again.get_buffer(name))
        assert not torch.isclose(matrix, other_seed.get_buffer(name)).all()
        assert not torch.isclose(matrix, elsewhere.get_buffer(name)).all()


def test_they_are_the_same_in_another_process() -> None:
    code = (
        "from lorakit.adapters.deltas.basis import Basis\n"
        "from lorakit.backbone.site import Site\n"
        f"delta = Basis({SITE!r}, 3, {OPTIONS!r})\n"
        "print([float(x) for x in delta.b_bases.flatten()] + [float(x) for x in delta.a_0.flatten()])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = Basis(SITE, 3, OPTIONS)
    assert there.strip() == str([float(x) for x in [*here.b_bases.flatten(), *here.a_0.flatten()]])


def test_entries_lie_within_their_bounds() -> None:
    built = Basis(Site("m", 0, "q", 64, 96, "linear"), 8, {"bases": 16})
    for bases in (built.a_bases, built.b_bases):
        assert 0.99 / 4 < bases.abs().max() <= 1 / 4  # U(-1, 1) / sqrt(16)
        assert abs(bases.std() - (1 / 3) ** 0.5 / 4) < 0.003
    assert 0.98 / 8 < built.a_0.abs().max() <= 1 / 8  # U(+-1 / sqrt(in))
