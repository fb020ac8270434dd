"""The whole model: switching, its tensors, and copies of it."""

from __future__ import annotations

import copy

import pytest
import torch
from support.adapters.cases import Fresh, adapt, backward, batch_for, disturb, evaluated

from lorakit.errors import RunError
from lorakit.recipe.schema import AdapterSection


def test_frozen_keeps_what_was_trained_and_leaves_out_what_never_was(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(rank=2), targets=["q", "v"])
    trained, never, on = adapted.sites[0].name, adapted.sites[1].name, adapted.sites[2].name
    with torch.no_grad():
        adapted.adapters[trained].delta.B.add_(0.5)
    adapted.switch([on], off="freeze")
    assert adapted.states() == {
        trained: "frozen",
        never: "dropped",
        on: "on",
        adapted.sites[3].name: "dropped",
    }
    adapted.switch([on], off="drop")
    assert adapted.states()[trained] == "dropped"


def test_what_may_train_is_listed_alike_whatever_is_on(fresh: Fresh) -> None:
    adapted = adapt(fresh("gpt2"), AdapterSection(method="dora", rank=2))
    listed = [tensor.name for tensor in adapted.trained()]
    full = adapted.adapter_parameters()
    adapted.switch(adapted.on[:1])
    assert [tensor.name for tensor in adapted.trained()] == listed
    assert adapted.adapter_parameters() < full == adapted.adapter_parameters([site.name for site in adapted.sites])


def test_the_tensors_are_all_there_and_share_the_models_memory(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="lora_fa", rank=2), targets=["q"])
    tensors = adapted.tensors()
    query = adapted.sites[0].name
    assert {name for name in tensors if name.startswith(query)} == {f"{query}.A", f"{query}.B"}
    assert set(adapted.new_parts) < set(tensors)
    assert tensors[f"{query}.A"].data_ptr() == adapted.adapters[query].delta.A.data_ptr()


@pytest.mark.parametrize("fault", ["missing", "shape"])
def test_tensors_that_do_not_fit_are_refused_and_nothing_is_copied(fresh: Fresh, fault: str) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(rank=2), targets=["q"])
    tensors = {name: tensor + 1 for name, tensor in adapted.tensors().items()}
    last = list(tensors)[-1]
    wrong = tensors.pop(last)
    if fault == "shape":
        tensors[last] = wrong.flatten()[:1]  # would broadcast
    before = {name: tensor.clone() for name, tensor in adapted.tensors().items()}
    with pytest.raises(RunError, match=last):
        adapted.load_tensors(tensors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.tensors().items())


def test_copies_of_the_model_and_of_the_whole_live_their_own_lives(fresh: Fresh) -> None:
    adapted = adapt(
        fresh("bert"), AdapterSection(rank=2), targets=["q"], shortcuts=["res1", "res2", "in", "cut", "mid"]
    )
    batch = batch_for(adapted.model)
    disturb(adapted)
    before = evaluated(adapted.model, batch)
    backward(adapted.model, batch)  # what the shortcuts hold now has a graph
    plain = copy.deepcopy(adapted.model)
    twin = copy.deepcopy(adapted)
    assert torch.equal(evaluated(twin.model, batch), before)
    disturb(adapted, seed=6)
    assert torch.equal(evaluated(twin.model, batch), evaluated(plain, batch))
    assert torch.equal(evaluated(plain, batch), before)
    before = evaluated(adapted.model, batch)
    twin.switch([])
    assert torch.equal(evaluated(twin.model, batch), evaluated(fresh("bert", shared=True).model, batch))
    assert torch.equal(evaluated(adapted.model, batch), before)


def test_a_site_that_is_not_there_cannot_be_switched_on(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(rank=2))
    with pytest.raises(ValueError, match="nowhere"):
        adapted.switch(["nowhere"])
