"""Pooled inputs against the dense update written out, in double precision; 10 inputs are groups of 4, 4 and 2."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.pooled import Pooled
from lorakit.backbone.site import Site

SITE = Site("m", 0, "q", 10, 7, "linear")
OPTIONS = {"group": 4}
SCALE = 1.7


@pytest.fixture
def delta() -> Pooled:
    torch.manual_seed(0)
    built = Pooled(SITE, 2, OPTIONS).double()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    return built


def test_every_input_of_a_group_has_a_share_of_its_column(delta: Pooled) -> None:
    assert Pooled.shapes(SITE, 2, OPTIONS) == {"A": (2, 3), "B": (7, 2)}
    dense = torch.stack([(delta.B @ delta.A)[:, i // 4] / 4 for i in range(10)], dim=1)
    for shape in ((10,), (4, 10), (2, 4, 10)):
        x = torch.randn(shape, dtype=torch.float64)
        assert_close(delta(x, SCALE), SCALE * torch.einsum("oi,...i->...o", dense, x))
        base = torch.randn(*shape[:-1], 7, dtype=torch.float64)
        assert_close(delta.added(base.clone(), x, SCALE), base + delta(x, SCALE))
    assert_close(delta.dense(), dense)
    b, a = delta.factors()
    assert_close(b @ a, dense)


def test_by_groups_it_is_the_product_over_the_groups_width(delta: Pooled) -> None:
    assert_close(delta.by_groups(4), delta.B @ delta.A / 4)
    assert delta.by_groups(8) is None


def test_gradients_are_those_of_finite_differences(delta: Pooled) -> None:
    x = torch.randn(2, 3, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *tensors: delta(x, SCALE), (x, delta.A, delta.B))
