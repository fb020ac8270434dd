"""What every adapter method owes a search: rank units that can be taken out, and gradients of sites that are off."""

from __future__ import annotations

import torch
from support.adapters.cases import Case, backward, disturb, evaluated, logits
from torch.testing import assert_close

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.conflicts import conflicts_with_search
from lorakit.adapters.rank_units import axes_of
from lorakit.adapters.switching import WATCHED
from lorakit.recipe.schema import SearchSection


def check_units(case: Case) -> None:
    """A unit that is cut off is gone as one that is closed is, and what is packed of the others is all there is."""
    disturb(case.adapted)
    adapters = [adapter for adapter in case.adapted.adapters.values() if adapter.units.divisible]
    if not adapters:
        return
    whole = evaluated(case.adapted.model, case.batch)
    everything = case.adapted.adapter_parameters()
    for adapter in adapters:
        adapter.units.cut(1)
    cut = evaluated(case.adapted.model, case.batch)
    assert not torch.equal(cut, whole)
    assert set(case.adapted.ranks().values()) <= {1, case.rank}
    ranked = sum(unit_parameters(adapter, case.rank) - unit_parameters(adapter, 1) for adapter in adapters)
    assert case.adapted.adapter_parameters() == everything - ranked
    packed = {
        (adapter, name): adapter.units.live_part(name, tensor.detach()).clone()
        for adapter in adapters
        for name, tensor, _ in adapter.tensors()
    }
    for adapter in adapters:
        adapter.units.keep(adapter.units.mask)
    assert_close(evaluated(case.adapted.model, case.batch), cut, rtol=1e-4, atol=1e-5)
    for adapter in adapters:
        for name, tensor, _ in adapter.tensors():
            assert packed[adapter, name].numel() == adapter.units.size(name, tensor, 1)
            with torch.no_grad():
                tensor.copy_(adapter.units.whole(name, packed[adapter, name]))
    assert_close(evaluated(case.adapted.model, case.batch), cut, rtol=1e-4, atol=1e-5)


def unit_parameters(adapter: Adapter, live: int) -> int:
    """Numbers in the trained tensors that have ranks, when ``live`` of them are left on every axis of rank."""
    total = 0
    for name, tensor, _ in adapter.trained_tensors():
        if axes := axes_of(adapter.delta, name):
            total += torch.Size(live if axis in axes else size for axis, size in enumerate(tensor.shape)).numel()
    return total


def check_watching(case: Case) -> None:
    """Sites that are off and watched leave the function as it is, bit for bit, and get the gradients they have when they are on."""
    if conflicts_with_search(case.spec, SearchSection(method="heterolora", scoring="streaming")):
        return
    if not case.identity:
        return
    model, names = case.adapted.model, [t.name for t in case.adapted.trained() if t.site]
    backward(model, case.batch)
    on = gradients(case, names)
    case.adapted.switch([])
    before = case.adapted.states()
    case.adapted.watch(True)
    assert set(case.adapted.states().values()) == {WATCHED}
    assert torch.equal(logits(model, case.batch), logits(case.pretrained, case.batch))
    backward(model, case.batch)
    for name, gradient in gradients(case, names).items():
        assert_close(gradient, on[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    case.adapted.watch(False)
    assert case.adapted.states() == before
    assert not any(t.parameter.grad is not None for t in case.adapted.trained() if t.site)
    assert not any("forward" in module.__dict__ for module in model.modules())


def gradients(case: Case, names: list[str]) -> dict[str, torch.Tensor]:
    """Tensor -> its gradient, zeros where none came; and no gradients are left."""
    found = {}
    for tensor in case.adapted.trained():
        parameter = tensor.parameter
        if tensor.name in names:
            found[tensor.name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        parameter.grad = None
    return found
