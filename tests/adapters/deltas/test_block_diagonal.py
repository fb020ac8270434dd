"""Small LoRAs side by side against each of them by hand, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.block_diagonal import BlockDiagonal
from lorakit.backbone.site import Site

SITE = Site("m", 0, "q", 6, 9, "linear")
OPTIONS = {"minis": 3}
SCALE = 1.7


@pytest.fixture
def delta() -> BlockDiagonal:
    torch.manual_seed(0)
    built = BlockDiagonal(SITE, 2, OPTIONS).double()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    return built


def by_hand(delta: BlockDiagonal) -> torch.Tensor:
    dense = torch.zeros(9, 6, dtype=torch.float64)
    for i in range(3):
        out, inside = slice(3 * i, 3 * i + 3), slice(2 * i, 2 * i + 2)
        dense[out, inside] = delta.B.detach()[out] @ delta.A.detach()[:, inside]
    return dense


def test_forward_is_the_dense_product(delta: BlockDiagonal) -> None:
    assert BlockDiagonal.shapes(SITE, 2, OPTIONS) == {"A": (2, 6), "B": (9, 2)}
    dense = by_hand(delta)
    for shape in ((6,), (4, 6), (2, 4, 6)):
        x = torch.randn(shape, dtype=torch.float64)
        assert_close(delta(x, SCALE), SCALE * torch.einsum("oi,...i->...o", dense, x))
    assert_close(delta.dense(), dense)
    b, a = delta.factors()
    assert (b.shape, a.shape) == ((9, 3 * 2), (3 * 2, 6))
    assert_close(b @ a, dense)


def test_gradients_are_those_of_finite_differences(delta: BlockDiagonal) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *tensors: delta(x, SCALE), (x, delta.A, delta.B))


def test_one_mini_is_lora() -> None:
    torch.manual_seed(0)
    delta = BlockDiagonal(SITE, 2, {"minis": 1})
    for parameter in delta.parameters():
        torch.nn.init.normal_(parameter)
    assert_close(delta.dense(), delta.B @ delta.A)


def test_a_refusal_names_what_divides_both_widths() -> None:
    assert BlockDiagonal.refusal(SITE, 2, OPTIONS) == ""
    assert "3, 1 would do" in BlockDiagonal.refusal(SITE, 2, {"minis": 2})
    assert "2 wide, thinner than rank 3" in BlockDiagonal.refusal(SITE, 3, OPTIONS)
