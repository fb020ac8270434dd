"""What is attached where, what is refused, and what a site's start depends on."""

from __future__ import annotations

import pytest
import torch
from support.adapters.cases import Fresh, adapt

from lorakit.errors import RecipeError
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
    everything = adapt(fresh("llama"), section, shortcuts=["res2", "mid"]).tensors()
    few = adapt(fresh("llama"), section, targets=["v"], shortcuts=["mid"]).tensors()
    assert len(few) < len(everything)
    assert all(torch.equal(tensor, everything[name]) for name, tensor in few.items())
    different = {tensor.flatten()[0].item() for name, tensor in everything.items() if name.endswith(".A")}
    assert len(different) == sum(name.endswith(".A") for name in everything)


def test_what_leaves_nothing_to_train_is_refused(fresh: Fresh) -> None:
    """GLoRA's vectors are those of a bias, and Llama's projections have none."""
    with pytest.raises(RecipeError, match="leaves nothing to train on any of the") as caught:
        adapt(fresh("llama"), AdapterSection(method="glora", rank=2, trainable="vector"))
    assert caught.value.problems[0].key == "adapter.trainable"
