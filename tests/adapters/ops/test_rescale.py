"""DoRA's last step is its formula, and so are its gradients."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.ops.rescale import ROWS, rescale


@pytest.mark.parametrize("rows", [(3,), (2, 3), (2 * ROWS + 1,)])
@pytest.mark.parametrize("bias", [False, True])
def test_the_formula_and_its_gradients(rows: tuple[int, ...], bias: bool):
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(*rows, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    f = torch.rand(4, generator=generator, dtype=torch.float64).requires_grad_()
    b = torch.randn(4, generator=generator, dtype=torch.float64) if bias else None
    expected = f * t + ((1 - f) * b if b is not None else 0)
    assert_close(rescale(t, f, b), expected)
    grad = torch.randn(t.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(rescale(t, f, b), (t, f), grad), torch.autograd.grad(expected, (t, f), grad), strict=True
    ):
        assert_close(ours, theirs)


def test_a_factor_of_one_changes_no_bit():
    t, b = torch.randn(5, 4), torch.randn(4)
    assert torch.equal(rescale(t, torch.ones(4), b), t)


def test_the_wider_dtype_wins():
    assert rescale(torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(3), None).dtype == torch.float32
