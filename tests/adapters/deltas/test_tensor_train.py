"""B A from two trains of cores, against einsum, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.tensor_train import TensorTrain
from lorakit.backbone.site import Site

SITE = Site("m", 0, "q", 32, 48, "linear")  # 32 = 8 * 4 and 48 = 8 * 6
OPTIONS = {"tensor_rank": 2}
SCALE = 1.7


@pytest.fixture
def delta() -> TensorTrain:
    torch.manual_seed(0)
    built = TensorTrain(SITE, 3, OPTIONS).double()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    return built


def by_hand(delta: TensorTrain) -> torch.Tensor:
    a = torch.einsum("xra,aib,bjy->rij", delta.A0, delta.A1, delta.A2).reshape(3, 32)
    b = torch.einsum("xia,ajb,bry->ijr", delta.B0, delta.B1, delta.B2).reshape(48, 3)
    return b @ a


def test_shapes() -> None:
    assert TensorTrain.shapes(SITE, 3, OPTIONS) == {
        "A0": (1, 3, 2),
        "A1": (2, 8, 2),
        "A2": (2, 4, 1),
        "B0": (1, 8, 2),
        "B1": (2, 6, 2),
        "B2": (2, 3, 1),
    }


def test_forward_is_the_dense_product(delta: TensorTrain) -> None:
    x = torch.randn(2, 4, 32, dtype=torch.float64)
    dense = by_hand(delta)
    assert_close(delta(x, SCALE), SCALE * torch.einsum("oi,bti->bto", dense, x))
    assert_close(delta.dense(), dense)
    b, a = delta.factors()
    assert (b.shape, a.shape) == ((48, 3), (3, 32))


def test_gradients_are_those_of_finite_differences(delta: TensorTrain) -> None:
    x = torch.randn(2, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *cores: delta(x, SCALE), (x, *delta.parameters()))


def test_one_core_starts_at_zero_and_every_other_gets_gradients_after_it_has_moved(delta: TensorTrain) -> None:
    delta.put_at_start(torch.Generator().manual_seed(0))
    assert [name for name, core in delta.named_parameters() if not core.any()] == ["B0"]
    assert delta.is_zero()
    x = torch.randn(2, 32, dtype=torch.float64)
    delta(x, SCALE).square().sum().backward()
    assert delta.B0.grad is not None
    assert not delta.B0.grad.any()  # of a square at zero
    delta(x, SCALE).sum().backward()
    assert delta.B0.grad.any()
    with torch.no_grad():
        delta.B0.sub_(0.1 * delta.B0.grad)
    delta.zero_grad()
    delta(x, SCALE).sum().backward()
    assert all(core.grad.any() for core in delta.parameters())
    assert not delta.is_zero()


def test_a_starts_with_lorettas_deviation() -> None:
    """Entries of A have variance 1 / (rank + in): over many starts, for entries of one start depend on each other."""
    delta, generator = TensorTrain(SITE, 8), torch.Generator().manual_seed(0)
    squares = []
    for _ in range(500):
        delta.put_at_start(generator)
        squares.append(delta.factors()[1].detach().square().mean())
    assert abs(torch.stack(squares).mean() * (8 + 32) - 1) < 0.1


@pytest.mark.parametrize("width", [7, 16, 97, 312, 1000])
def test_every_width_has_a_train(width: int) -> None:
    delta = TensorTrain(Site("m", 0, "q", width, 2 * width, "linear"), 4)
    assert delta.dense().shape == (2 * width, width)
