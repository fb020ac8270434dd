"""LoRA in a layer with closed outputs: what it computes, what it merges into, and that other sites have no mask."""

from __future__ import annotations

import pytest
import torch
from support.adapters.products import SCALE, random_product
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.deltas.masked import Masked
from lorakit.adapters.method import resolve
from lorakit.artifacts.combination import update_of
from lorakit.backbone.site import Site
from lorakit.errors import RunError
from lorakit.recipe.schema import AdapterSection

UP, DOWN = Site("m", 0, "up", 5, 7, "linear"), Site("m", 0, "down", 5, 7, "linear")
KEPT = torch.tensor([1.0, 0, 1, 1, 0, 0, 1], dtype=torch.float64)


def test_closed_outputs_are_zero_in_the_layer_and_in_the_merged_one() -> None:
    layer = nn.Linear(5, 7).double()
    adapter = Adapter(UP, resolve(AdapterSection(method="loraprune", rank=3, alpha=6)), 3, layer).double()
    delta = adapter.delta
    assert isinstance(delta, Masked)
    with torch.no_grad():
        delta.B.normal_(generator=torch.Generator().manual_seed(0))
        delta.kept.copy_(KEPT)
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    weight = KEPT[:, None] * (layer.weight + 2 * delta.B @ delta.A)  # s = 6 / 3
    expected = F.linear(x, weight, KEPT * layer.bias)
    adapter.switch("on")
    assert_close(layer(x), expected)
    delta.B.grad = None
    layer(x).square().sum().backward()
    assert delta.B.grad is not None
    assert torch.equal(delta.B.grad.any(dim=1), KEPT.bool())
    adapter.fold()
    assert_close(layer(x), expected)
    assert_close(layer.weight, weight)


def test_only_what_can_go_whole_has_a_mask() -> None:
    assert Masked.shapes(UP, 2) == {"A": (2, 5), "B": (7, 2), "kept": (7,)}
    assert Masked.shapes(DOWN, 2) == {"A": (2, 5), "B": (7, 2)}
    assert "kept" in Masked.shapes(Site("m", 0, "v", 5, 7, "linear"), 2)
    delta = random_product("masked", DOWN)
    weight = torch.randn(7, 5, dtype=torch.float64)
    assert delta.additive
    assert_close(delta.effective_weight(weight, SCALE), weight + SCALE * delta.B @ delta.A)


def test_an_update_with_closed_outputs_is_not_combined() -> None:
    adapter = Adapter(UP, resolve(AdapterSection(method="loraprune", rank=3)), 3, nn.Linear(5, 7, bias=False)).double()
    delta = adapter.delta
    assert isinstance(delta, Masked)
    delta.B.data.fill_(1.0)
    whole = update_of(adapter)
    assert whole.dense is not None
    assert_close(whole.dense, adapter.scale * (delta.B @ delta.A).detach())
    delta.leave_open(KEPT.bool(), 1)
    with pytest.raises(RunError, match="has closed whole outputs"):
        update_of(adapter)


def test_groups_of_outputs_are_closed_together() -> None:
    delta = Masked(Site("m", 0, "v", 5, 6, "linear"), 2)
    delta.leave_open(torch.tensor([True, False, True]), 2)
    assert delta.kept.tolist() == [1, 1, 0, 0, 1, 1]
    assert delta.open_groups(2).tolist() == [True, False, True]


def test_it_changes_the_layer_where_b_is_zero_and_an_output_is_closed() -> None:
    delta = Masked(UP, 3)
    delta.put_at_start(torch.Generator())
    assert delta.is_zero()
    delta.kept.data[2] = 0
    assert not delta.is_zero()
    assert delta.closed_outputs() == 1
