"""Copies of a module's parameters that stand in for them."""

from __future__ import annotations

import torch
from torch import nn

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.delta import deltas
from lorakit.adapters.method import resolve
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection

SPEC = resolve(AdapterSection(method="full"))


def adapted_linear(*names: str) -> tuple[nn.Linear, Adapter]:
    """A Linear (5 to 7) whose parameters ``names`` are adapted, its adapter on."""
    torch.manual_seed(0)
    base = nn.Linear(5, 7).requires_grad_(False)
    parameters = tuple((name, tuple(base.get_parameter(name).shape)) for name in names)
    adapter = Adapter(Site("m", 0, "weights", 5, 7, "module", parameters=parameters), SPEC, 1, base)
    base.add_module("adapter", adapter)
    adapter.switch("on")
    return base, adapter


def test_copies_start_equal_and_take_the_place_while_on() -> None:
    base, adapter = adapted_linear("weight", "bias")
    weight = adapter.originals["weight"]
    assert base.weight is adapter.delta.weight
    assert torch.equal(base.weight, weight)
    assert adapter.changes_nothing()
    with torch.no_grad():
        adapter.delta.weight.add_(1.0)
    x = torch.randn(3, 5)
    assert torch.equal(base(x), nn.functional.linear(x, weight + 1.0, adapter.delta.bias))
    assert not adapter.changes_nothing()
    adapter.switch("dropped")
    assert base.weight is weight
    assert torch.equal(base(x), nn.functional.linear(x, weight, adapter.originals["bias"]))


def test_what_stands_aside_moves_with_the_module_and_keeps_its_dtype() -> None:
    base, adapter = adapted_linear("weight", "bias")
    adapter.double()
    assert {each.dtype for each in adapter.originals.values()} == {torch.float32}
    base.to("meta")
    assert {each.device.type for each in adapter.originals.values()} == {"meta"}


def test_parameters_that_the_site_does_not_name_stay_frozen() -> None:
    base, adapter = adapted_linear("bias")
    base(torch.randn(3, 5)).square().sum().backward()
    assert base.weight.grad is None
    assert adapter.delta.bias.grad is not None
    assert [name for name, _, _ in adapter.tensors()] == ["bias"]


def test_roles_tell_biases_from_the_rest() -> None:
    kind = deltas.get("own_parameters")
    roles = {name: kind.role_of(name) for name in ("weight", "bias", "q_bias", "gamma")}
    assert roles == {"weight": "weight", "bias": "bias", "q_bias": "bias", "gamma": "weight"}
