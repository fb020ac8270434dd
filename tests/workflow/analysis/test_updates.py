"""Each site's dW against what its module does: W' x is read off unit vectors, whatever the method."""

from __future__ import annotations

import pytest
import torch
from support.adapters.cases import adapt, disturb
from torch.testing import assert_close

from lorakit.adapters.deltas.masked import Masked
from lorakit.backbone.quantised import Quantisation
from lorakit.recipe.schema import AdapterSection
from lorakit.workflow.analysis import moved
from lorakit.workflow.analysis.updates import NOTHING, OFF, left_out, moved_biases, updates_of

NO_PROJECTION = "biases, norms, embeddings and poolers are no projection's weight"


def section(method: str, **given: object) -> AdapterSection:
    return AdapterSection(method=method, rank=3, alpha=5.0, **given)


@torch.no_grad()
def weight_in_use(module: torch.nn.Module, inside: int) -> torch.Tensor:
    """W' (out x in): what the module makes of unit vectors, its bias taken away."""
    return (module(torch.eye(inside)) - module(torch.zeros(1, inside))).T.double()


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("lora", "gpt2"),
        ("full", "gpt2"),
        *((method, "bert") for method in ("dora", "ia3", "pissa", "glora", "relora", "vera", "lotr", "melora")),
        *((method, "bert") for method in ("sam_parser", "delta_lora", "nola")),
    ],
)
def test_the_update_is_what_the_module_does_less_what_it_did(fresh, method, family):
    adapted = adapt(fresh(family), section(method))
    disturb(adapted)
    adapted.model.eval()
    plain = fresh(family, shared=True).model
    found = list(updates_of(adapted))
    assert [update.site.name for update in found] == [site.name for site in adapted.backbone.anatomy.sites]
    for update in found[:4]:
        name, inside = update.site.name, update.site.in_features
        before = weight_in_use(plain.get_submodule(name), inside)
        after = weight_in_use(adapted.model.get_submodule(name), inside)
        assert_close(update.weight, before, rtol=1e-4, atol=1e-5)
        assert_close(update.dense, after - before, rtol=1e-3, atol=2e-5)
        assert update.dense.norm() > 0.01
    assert set(left_out(adapted, {update.site.name for update in found})) == (
        {NO_PROJECTION} if method == "full" else set()
    )


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("prefix_tuning", "there is no one dW: virtual tokens are not weights"),
        ("prompt_tuning", "there is no one dW: virtual tokens are not weights"),
        ("houlsby", "there is no one dW: a bottleneck is not linear"),
        (
            "hydralora",
            "there is no one dW: its experts are weighed anew for every token, and no one matrix says the same",
        ),
        ("mixlora", "there is no one dW: its factors are chosen anew for every row, and no one matrix says the same"),
        ("bitfit", NO_PROJECTION),
        ("layer_norm", NO_PROJECTION),
    ],
)
def test_what_has_no_update_of_a_matrix_says_why(fresh, method, reason):
    adapted = adapt(fresh("bert"), section(method))
    disturb(adapted)
    assert list(updates_of(adapted)) == []
    assert left_out(adapted, []) == {reason: list(adapted.adapters)}


def test_sites_that_are_off_or_have_not_moved_are_no_updates(fresh):
    adapted = adapt(fresh("bert"), section("lora"), targets=["q", "v"])
    first, second, *_ = adapted.adapters
    with torch.no_grad():
        for name in (first, second):
            adapted.adapters[name].delta.B.fill_(0.1)
    adapted.switch([name for name in adapted.adapters if name != first])
    assert [update.site.name for update in updates_of(adapted)] == [second]
    assert left_out(adapted, [second]) == {OFF: [first], NOTHING: list(adapted.adapters)[2:]}


def test_a_site_whose_bias_alone_has_moved_has_no_update(fresh):
    options = dict.fromkeys("ABC", "none") | {"D": "vector", "E": "vector"}
    adapted = adapt(fresh("bert"), section("glora", options=options), targets=["q"])
    disturb(adapted)
    assert not any(adapter.changes_nothing() for adapter in adapted.adapters.values())
    assert list(updates_of(adapted)) == []
    assert left_out(adapted, []) == {NOTHING: list(adapted.adapters)}
    assert moved_biases(adapted, []) == len(adapted.adapters)


@torch.no_grad()
def test_biases_of_full_fine_tuning_are_counted(fresh):
    adapted = adapt(fresh("bert"), section("full"))
    name = "encoder.layer.1.attention.self.value"
    delta = next(adapter.delta for site, adapter in adapted.adapters.items() if site.endswith(name))
    delta.get_parameter("weight").add_(0.1)
    (update,) = updates_of(adapted)
    assert_close(update.dense, torch.full_like(update.dense, 0.1), rtol=1e-5, atol=0)
    assert moved_biases(adapted, [update.site.name]) == 0
    delta.get_parameter("bias").add_(0.1)
    assert moved_biases(adapted, [update.site.name]) == 1


def test_random_updates_have_the_rank_of_a_site_that_is_off_in_the_end(fresh, monkeypatch):
    adapted = adapt(fresh("bert"), section("lora"), targets=["q"])
    disturb(adapted)
    drawn = []
    monkeypatch.setattr(moved, "random_update", lambda shape, rank, _: drawn.append(rank) or torch.ones(shape).double())
    moved.moved_now(adapted, "best", {next(iter(adapted.adapters)): 2})
    assert drawn == [3] * len(adapted.adapters)


def test_rank_units_that_are_cut_are_not_in_it(fresh):
    adapted = adapt(fresh("bert"), section("lora"), targets=["q"])
    disturb(adapted)
    adapter = next(iter(adapted.adapters.values()))
    b, a = (tensor.detach().double() for tensor in (adapter.delta.B, adapter.delta.A))
    adapter.units.keep(torch.tensor([True, False, True]))
    assert_close(next(updates_of(adapted)).dense, 5 / 3 * b[:, [0, 2]] @ a[[0, 2]])


def test_closed_outputs_are_not_taken_for_an_update(fresh):
    adapted = adapt(fresh("bert"), section("loraprune"), targets=["q", "v"])
    disturb(adapted)
    for adapter in adapted.adapters.values():
        if isinstance(adapter.delta, Masked) and adapter.delta.masks:
            adapter.delta.leave_open(torch.arange(4) > 0, 8)
    assert {update.site.role for update in updates_of(adapted)} == {"q"}
    assert any("outputs of it are closed" in reason for reason in left_out(adapted, []))


def test_a_shortcut_has_an_update_and_nothing_beneath(fresh):
    adapted = adapt(fresh("bert"), section("lora"), targets=[], shortcuts=["res1"])
    disturb(adapted)
    update = next(updates_of(adapted))
    assert update.weight is None
    x = torch.eye(32)
    assert_close(update.dense, adapted.adapters[update.site.name](x).T.detach().double(), rtol=1e-4, atol=1e-6)


def test_w_is_the_quantised_weight_where_it_is_quantised(fresh):
    backbone = fresh("bert")
    site = backbone.anatomy.select(["q"])[0]
    Quantisation("int4").quantise(backbone.model.get_submodule(site.name))
    adapted = adapt(backbone, section("dora"), targets=["q"])
    disturb(adapted)
    update = next(updates_of(adapted))
    assert_close(update.weight, backbone.model.get_submodule(site.name).weight.double())
    after = weight_in_use(adapted.model.eval().get_submodule(site.name), site.in_features)
    assert_close(update.weight + update.dense, after, rtol=1e-3, atol=2e-5)
