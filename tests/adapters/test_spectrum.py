"""The first singular triplets: against a matrix made of known ones, and where they are exact."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters import spectrum
from lorakit.adapters.spectrum import leading

OUT, IN, COUNT = 300, 260, 8


def made_of(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A matrix (OUT x IN) with these singular values, and its vectors."""
    draw = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(OUT, IN, generator=draw, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(IN, IN, generator=draw, dtype=torch.float64)).Q
    return (u * values) @ v.T, u, v


@pytest.fixture
def _large(monkeypatch: pytest.MonkeyPatch):
    """Matrices of a few hundred rows are large ones."""
    monkeypatch.setattr(spectrum, "SMALL", 200)


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_of_a_decaying_spectrum_they_are_found_to_float32(power: float):
    """Singular values k^-power: of the best approximation as little is missed as float32 rounds where they fall as 1/k or faster."""
    values = torch.arange(1, IN + 1, dtype=torch.float64) ** -power
    matrix, u, v = made_of(values)
    found, s, vt = leading(matrix.float(), COUNT, torch.Generator().manual_seed(1), exact=False)
    best = (u[:, :COUNT] * values[:COUNT]) @ v[:, :COUNT].T
    error = ((found * s @ vt).double() - best).norm() / best.norm()
    assert error < (1e-5 if power >= 1 else 1e-3)
    assert_close(s.double(), values[:COUNT], rtol=1e-4, atol=0)
    assert_close(found.T @ found, torch.eye(COUNT), rtol=0, atol=1e-5)
    assert_close(vt @ vt.T, torch.eye(COUNT), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("_large")
def test_of_a_flat_spectrum_as_much_is_kept_as_there_is_to_keep():
    """A random matrix: its first directions are hardly more than others, so which they are is open, but not how much they hold."""
    matrix = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0))
    _, s, _ = leading(matrix, COUNT, torch.Generator().manual_seed(1), exact=False)
    assert_close(s, torch.linalg.svdvals(matrix)[:COUNT], rtol=0.02, atol=0)


@pytest.mark.usefixtures("_large")
def test_the_seed_decides():
    matrix = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0))
    one, again, other = (leading(matrix, COUNT, torch.Generator().manual_seed(k), exact=False)[0] for k in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("small", "exact", "count"), [(200, True, COUNT), (260, False, COUNT), (200, False, 30)])
def test_exact_on_request_for_small_matrices_and_where_it_is_no_slower(
    monkeypatch: pytest.MonkeyPatch, small: int, exact: bool, count: int
):
    """And then nothing is drawn: what was small before starts as it did."""
    monkeypatch.setattr(spectrum, "SMALL", small)
    matrix, draw = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    before = draw.get_state()
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    for found, expected in zip(
        leading(matrix, count, draw, exact=exact), (u[:, :count], s[:count], v[:count]), strict=True
    ):
        assert torch.equal(found, expected)
    assert torch.equal(draw.get_state(), before)
