"""Rank units: what is live, what a cut leaves, and what of a tensor is theirs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.adapters.one_adapter import INSIDE, OUTSIDE, RANK, build
from support.adapters.products import random_product
from torch.testing import assert_close

from lorakit.adapters.adapter import Adapter
from lorakit.backbone.site import Site


def adapter_of(method: str) -> Any:
    """An adapter of rank 3 whose tensors are random."""
    adapter: Adapter = build(method=method)[1]
    return adapter


def values(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Copies of all tensors."""
    return {name: tensor.detach().clone() for name, tensor, _ in adapter.tensors()}


def test_a_cut_leaves_every_value_and_computes_with_the_first_units_alone() -> None:
    adapter = adapter_of("lora")
    before = values(adapter)
    adapter.units.cut(2)
    assert (adapter.units.live, adapter.units.mask.tolist()) == (2, [True, True, False])
    assert adapter.units.is_cut
    assert_close(adapter.delta.dense(), before["B"][:, :2] @ before["A"][:2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in values(adapter).items())
    for everything in (None, RANK, RANK + 1):
        adapter.units.cut(everything)
        assert adapter.units.live == RANK
        assert not adapter.units.is_cut
        assert_close(adapter.delta.dense(), before["B"] @ before["A"])


def test_an_attribute_is_the_whole_tensor_and_tensor_is_what_the_function_sees() -> None:
    """LoRA is sliced; in MELoRA's blocks zeros stand in the other units' place, in B alone."""
    sliced, masked = random_product("low_rank"), random_product("block_diagonal", site=linear_site(4, 8))
    for delta in (sliced, masked):
        b, a = delta.B.detach().clone(), delta.A.detach().clone()
        assert delta.tensor("A") is delta.A
        delta.cut_to = 1
        assert torch.equal(delta.B, b)
        assert torch.equal(delta.A, a)
    assert torch.equal(sliced.tensor("A"), sliced.A[:1])
    assert torch.equal(sliced.tensor("B"), sliced.B[:, :1])
    assert torch.equal(masked.tensor("A"), masked.A)
    assert torch.equal(masked.tensor("B"), torch.cat([masked.B[:, :1], torch.zeros(8, RANK - 1).double()], dim=1))


def linear_site(inside: int, outside: int) -> Site:
    """A linear site."""
    return Site("m", 0, "q", inside, outside, "linear")


@pytest.mark.parametrize(
    ("method", "closers"), [("lora", {"B"}), ("trilora", {"g"}), ("sora", {"g"}), ("flora", {"G"}), ("aflora", {"d"})]
)
def test_what_closes_a_unit(method: str, closers: set[str]) -> None:
    """What starts at zero, or the vector; SoRA says itself that it is the gate. The rest keeps its values."""
    adapter = adapter_of(method)
    before = values(adapter)
    adapter.units.keep(torch.tensor([True, False, True]))
    changed = {name for name, tensor in values(adapter).items() if not torch.equal(tensor, before[name])}
    assert changed == closers == set(adapter.delta.closers())
    assert adapter.units.divisible


def test_what_has_no_units_is_not_divisible() -> None:
    adapter = adapter_of("nola")
    assert not adapter.units.divisible
    assert all(adapter.units.size(name, tensor, 1) == tensor.numel() for name, tensor, _ in adapter.tensors())


def test_a_cores_units_are_rows_and_columns() -> None:
    units, core = adapter_of("flora").units, torch.arange(9.0).view(3, 3)
    units.keep(torch.tensor([True, False, True]))
    assert units.live_part("G", core).tolist() == [[0, 2], [6, 8]]
    assert units.whole("G", torch.ones(2, 2)).tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
    assert units.inserted("G", torch.full((1, 1), -1.0), [1], core).tolist() == [[0, 1, 2], [3, -1, 5], [6, 7, 8]]
    assert [units.size("G", core, live) for live in range(4)] == [0, 1, 4, 9]


def test_parameters_at_a_rank_are_those_of_the_closed_formula() -> None:
    lora, dora = adapter_of("lora"), adapter_of("dora")
    assert [lora.parameters_at(live) for live in range(4)] == [live * (INSIDE + OUTSIDE) for live in range(4)]
    assert [dora.parameters_at(live) for live in (1, 3)] == [live * (INSIDE + OUTSIDE) + OUTSIDE for live in (1, 3)]
    assert dora.parameters_at(0) == 0


@pytest.mark.parametrize(
    ("change", "record"),
    [
        (lambda units: units.cut(None), None),
        (lambda units: units.cut(2), {"live": [0, 1], "cut": True}),
        (lambda units: units.keep(torch.tensor([True, False, True])), {"live": [0, 2], "cut": False}),
    ],
)
def test_what_is_recorded_can_be_restored(change: Any, record: dict[str, Any] | None) -> None:
    units, other = adapter_of("lora").units, adapter_of("lora").units
    change(units)
    assert units.record() == record
    other.cut(1)
    other.restore(record)
    assert torch.equal(other.mask, units.mask)
    assert other.is_cut == units.is_cut
