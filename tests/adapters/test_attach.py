"""The whole model: what is attached where, switching, the state, and what a site's start depends on."""

from __future__ import annotations

import copy

import pytest
import torch
from support.adapters.cases import Fresh, adapt, backward, batch_for, disturb, evaluated

from lorakit.errors import RecipeError, RunError
from lorakit.recipe.schema import AdapterSection


def test_every_site_has_its_adapter_in_model_order(fresh: Fresh) -> None:
    adapted = adapt(fresh("llama"), AdapterSection(rank=2), shortcuts=["res1"])
    assert [adapter.site for adapter in adapted.adapters.values()] == adapted.sites
    assert adapted.on == [site.name for site in adapted.sites] == list(adapted.adapters)
    assert len(adapted.sites) == 2 * 7 + 2
    assert {tensor.name for tensor in adapted.trained() if tensor.role == "head"} == set(adapted.new_parts)


def test_ranks_are_each_sites_own_and_the_scale_follows(fresh: Fresh) -> None:
    backbone = fresh("bert")
    names = [site.name for site in backbone.anatomy.select(["q"])]
    adapted = adapt(backbone, AdapterSection(rank=4, alpha=8), targets=["q"], ranks={names[1]: 2})
    assert [(a.rank, a.scale, tuple(a.delta.A.shape)) for a in adapted.adapters.values()] == [
        (4, 2.0, (4, 32)),
        (2, 4.0, (2, 32)),
    ]


@pytest.mark.parametrize(("rank", "shortcut_rank", "key"), [(33, 1, "adapter.rank"), (1, 33, "adapter.shortcut_rank")])
def test_a_rank_above_the_matrix_is_refused(fresh: Fresh, rank: int, shortcut_rank: int, key: str) -> None:
    with pytest.raises(RecipeError, match="rank 33 does not fit") as caught:
        adapt(fresh("bert"), AdapterSection(rank=rank, shortcut_rank=shortcut_rank), shortcuts=["in"])
    assert caught.value.problems[0].key == key
    assert caught.value.problems[0].valid == "1 to 32"


def test_a_sites_start_does_not_depend_on_the_other_sites(fresh: Fresh) -> None:
    section = AdapterSection(rank=2)
    everything = adapt(fresh("llama"), section, shortcuts=["res2", "mid"]).state()
    few = adapt(fresh("llama"), section, targets=["v"], shortcuts=["mid"]).state()
    assert len(few) < len(everything)
    assert all(torch.equal(tensor, everything[name]) for name, tensor in few.items())
    different = {tensor.flatten()[0].item() for name, tensor in everything.items() if name.endswith(".A")}
    assert len(different) == sum(name.endswith(".A") for name in everything)


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


def test_the_state_has_every_tensor_and_shares_the_models_memory(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="lora_fa", rank=2), targets=["q"])
    state = adapted.state()
    query = adapted.sites[0].name
    assert {name for name in state if name.startswith(query)} == {f"{query}.A", f"{query}.B"}
    assert set(adapted.new_parts) < set(state)
    assert state[f"{query}.A"].data_ptr() == adapted.adapters[query].delta.A.data_ptr()


@pytest.mark.parametrize("fault", ["missing", "shape"])
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_copied(fresh: Fresh, fault: str) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(rank=2), targets=["q"])
    tensors = {name: tensor + 1 for name, tensor in adapted.state().items()}
    last = list(tensors)[-1]
    wrong = tensors.pop(last)
    if fault == "shape":
        tensors[last] = wrong.flatten()[:1]  # would broadcast
    before = {name: tensor.clone() for name, tensor in adapted.state().items()}
    with pytest.raises(RunError, match=last):
        adapted.load_state(tensors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.state().items())


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


def test_what_leaves_nothing_to_train_is_refused(fresh: Fresh) -> None:
    """GLoRA's vectors are those of a bias, and Llama's projections have none."""
    with pytest.raises(RecipeError, match="leaves nothing to train on any of the") as caught:
        adapt(fresh("llama"), AdapterSection(method="glora", rank=2, trainable="vector"))
    assert caught.value.problems[0].key == "adapter.trainable"
