"""The thin product is its formula, and so are its gradients."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from support.thinned import thinned
from torch.testing import assert_close

from lorakit.adapters.ops.thin import adapted_linear, thin_product

SHAPES = [(5,), (3, 4, 5)]


def made(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """x, a (2 x 5), b (7 x 2) and what it is added to."""
    generator = torch.Generator().manual_seed(0)
    sizes = [shape, (2, 5), (7, 2), (*shape[:-1], 7)]
    return [torch.randn(size, generator=generator, dtype=dtype) for size in sizes]


@pytest.mark.parametrize("shape", thinned([(shape,) for shape in reversed(SHAPES)], 2))
@pytest.mark.parametrize("added", [False, True])
def test_the_product_and_its_gradients(shape: tuple[int, ...], added: bool):
    """torch's numerical differentiation, with every choice of what is trained."""
    for wanted in product([False, True], repeat=4):
        tensors = [tensor.requires_grad_(needs) for tensor, needs in zip(made(shape), wanted, strict=True)]

        def run(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
            return thin_product(x, a, b, 0.3, base * 1.0 if added else None)

        x, a, b, base = tensors
        expected = 0.3 * (x @ a.T @ b.T) + (base if added else 0)
        assert_close(run(*tensors), expected)
        if any(wanted[: 3 + added]):
            assert torch.autograd.gradcheck(run, tensors)


def test_a_frozen_layers_output_is_overwritten_and_a_view_is_not():
    x, a, b, base = made((3, 4, 5))
    assert thin_product(x, a, b, 1.0, base).data_ptr() == base.data_ptr()
    whole = torch.zeros(2, 3, 4, 7, dtype=base.dtype)
    thin_product(x, a, b, 1.0, whole[0])
    assert not whole.any()


def test_nothing_added_is_nothing_changed():
    """B is zero at the start: the pretrained output, to the bit."""
    x, a, b, base = made((3, 4, 5), torch.float32)
    assert torch.equal(thin_product(x, a, torch.zeros_like(b), 2.0, base.clone()), base)


@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16])
def test_in_autocast_it_computes_in_its_dtype(base_dtype: torch.dtype):
    x, a, b, base = made((3, 4, 5), torch.float32)
    a.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = thin_product(x, a, b, 0.5, base.to(base_dtype))
    assert out.dtype == base_dtype
    assert_close(out.float(), base + 0.5 * (x @ a.T @ b.T), rtol=3e-2, atol=3e-2)
    out.float().sum().backward()
    assert a.grad is not None
    assert a.grad.dtype == torch.float32
    assert_close(a.grad, 0.5 * b.sum(0)[:, None] * x.sum((0, 1)), rtol=3e-2, atol=5e-2)


@pytest.mark.parametrize("shape", thinned([(shape,) for shape in reversed(SHAPES)], 2))
@pytest.mark.parametrize("bias", [False, True])
def test_the_adapted_layer_and_its_gradients(shape: tuple[int, ...], bias: bool):
    """The layer's own too, which a search may look at."""
    layer = torch.nn.Linear(5, 7, bias=bias).double()
    looked_at = list(layer.parameters())
    for wanted in product([False, True], repeat=4):
        tensors = [tensor.requires_grad_(needs) for tensor, needs in zip(made(shape)[:3], wanted, strict=False)]
        layer.requires_grad_(wanted[3])

        def run(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *layers: torch.Tensor) -> torch.Tensor:
            return adapted_linear(x, layer, a, b, 0.3)

        x, a, b = tensors
        assert_close(run(*tensors), layer(x) + 0.3 * (x @ a.T @ b.T))
        if any(wanted):
            assert torch.autograd.gradcheck(run, (*tensors, *looked_at))


def test_the_adapted_layer_starts_as_the_frozen_one():
    layer = torch.nn.Linear(5, 7).requires_grad_(False)
    x, a, b, _ = made((3, 4, 5), torch.float32)
    assert torch.equal(adapted_linear(x, layer, a, torch.zeros_like(b), 2.0), layer(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(adapted_linear(x, layer, a, torch.zeros_like(b), 2.0), layer(x))


def test_what_comes_out_may_be_changed_in_place():
    """As DeBERTa does with its query: an output that is a view of something else would be refused by autograd."""
    x, a, b, _ = made((3, 4, 5))
    layer = torch.nn.Linear(5, 7, dtype=x.dtype)
    a.requires_grad_()
    for out in (adapted_linear(x, layer, a, b, 1.0), thin_product(x, a, b, 1.0)):
        expected = out.detach() + 1
        out += 1
        assert torch.equal(out, expected)
        (gradient,) = torch.autograd.grad(out.sum(), a)
        assert_close(gradient, b.sum(dim=0)[:, None] * x.sum(dim=(0, 1)))


@pytest.mark.parametrize("bias", [False, True])
def test_a_product_that_is_zero_leaves_the_layer_s_output_to_the_bit(bias: bool):
    """Of rows in another order in memory, too, which a plain layer sums up otherwise (Longformer's)."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(32, 32, bias=bias).requires_grad_(False)
    a, b = torch.randn(4, 32, generator=generator), torch.zeros(32, 4)
    for x in (torch.randn(56, 3, 32, generator=generator), torch.randn(3, 56, 32, generator=generator).transpose(0, 1)):
        assert torch.equal(adapted_linear(x, layer, a, b, 2.0), layer(x))
