"""States: which forward a module has in each, and what trains."""

from __future__ import annotations

import pytest
import torch
from support.adapters.one_adapter import INSIDE, build
from torch import nn
from torch.testing import assert_close

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.switching import DROPPED, FROZEN, ON, WATCHED, Forward, adapted_forward, freeze_for_good
from lorakit.errors import RunError


def test_states_choose_the_forward_and_what_trains() -> None:
    base, adapter = build()
    for state, present, training in ((DROPPED, False, False), (FROZEN, True, False), (ON, True, True)):
        adapter.switch(state)
        assert adapter.state == state
        assert ("forward" in base.__dict__) == present
        assert {p.requires_grad for p in adapter.parameters()} == {training}
        assert not any(p.requires_grad for name, p in base.named_parameters() if "adapter" not in name)


@pytest.mark.parametrize(
    ("section", "kind", "dtype", "chosen"),
    [
        ({}, "linear", torch.float64, Adapter.added_fused),
        ({"dropout": 0.1}, "linear", torch.float64, Adapter.added),
        ({}, "conv1d", torch.float64, Adapter.added),
        ({}, "linear", torch.bfloat16, Adapter.added_in_float32),
        ({"method": "diff_pruning"}, "linear", torch.float64, Adapter.added_to_weight),
        ({"method": "diff_pruning", "dropout": 0.1}, "linear", torch.float64, Adapter.added),
        ({"method": "diff_pruning"}, "conv1d", torch.float64, Adapter.added),
        ({"method": "diff_pruning"}, "linear", torch.bfloat16, Adapter.added_in_float32),
        ({"method": "dora"}, "linear", torch.float64, Adapter.decomposed_fused),
        ({"method": "dora"}, "linear", torch.bfloat16, Adapter.decomposed),
        ({"method": "ia3"}, "linear", torch.float64, Adapter.rewritten),
    ],
)
def test_the_forward_is_one_method_chosen_once(
    section: dict[str, object], kind: str, dtype: torch.dtype, chosen: Forward
) -> None:
    base, adapter = build(kind, dtype=dtype, **section)
    assert base.forward.__func__ is chosen
    assert adapted_forward(adapter).__func__ is chosen  # type: ignore[attr-defined]
    adapter.switch(WATCHED)
    assert base.forward.__func__ is Adapter.watched


def test_an_update_that_is_computed_whole_is_one_product_with_the_weight_but_in_half_precision() -> None:
    base, adapter = build(method="diff_pruning")
    base.eval()
    x = torch.randn(4, INSIDE, dtype=torch.float64)
    weight = adapter.effective_weight(base.weight)
    assert torch.equal(base(x), torch.nn.functional.linear(x, weight, base.bias))
    base.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(base(x.float()), adapter.added(x.float()))


def second_on(base: nn.Module, first: Adapter) -> Adapter:
    """Another adapter on the same module, in double precision."""
    second = Adapter(first.site, first.spec, first.rank, base)
    base.add_module("second", second)
    with torch.no_grad():
        for _, tensor, _ in second.to(torch.float64).tensors():
            tensor.normal_()
    return second


def test_sums_stand_on_each_other() -> None:
    base, first = build()
    x = torch.randn(3, INSIDE, dtype=torch.float64)
    first_alone, second = base(x), second_on(base, first)
    second.switch(ON)
    both = base(x)
    first.switch(DROPPED)
    second_alone = base(x)
    second.switch(DROPPED)
    assert_close(both - base(x), (first_alone - base(x)) + (second_alone - base(x)))


def test_what_does_not_commute_is_refused_and_left_off() -> None:
    base, first = build(method="dora")
    second = second_on(base, first)
    x = torch.randn(3, INSIDE, dtype=torch.float64)
    alone = base(x)
    with pytest.raises(RunError, match="two adapters at once on m"):
        second.switch(ON)
    assert second.state == DROPPED
    assert not any(parameter.requires_grad for parameter in second.parameters())
    assert torch.equal(base(x), alone)


def test_what_is_frozen_for_good_stays_so_in_every_state() -> None:
    _, adapter = build()
    freeze_for_good(adapter, "A")
    for state, training in ((FROZEN, {}), (ON, {"B"}), (WATCHED, {"B"}), (ON, {"B"})):
        adapter.switch(state)
        assert {name for name, tensor, _ in adapter.tensors() if tensor.requires_grad} == set(training)
