"""Shortcuts wired into real layers against the same layers run by hand: outputs, gradients, states, and no trace when off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.adapters.cases import Fresh, adapt, backward, batch_for, disturb, evaluated, hooks
from support.adapters.contract import near
from support.adapters.layers_by_hand import BLOCKS, Low, run_by_hand
from torch.testing import assert_close

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.backbone.site import SHORTCUTS
from lorakit.recipe.schema import AdapterSection

LAYERS = 3
POST_NORM, PRE_NORM = ("bert", "opt_postnorm"), ("opt", "gpt2", "llama")
KINDS = [*((kind,) for kind in SHORTCUTS), SHORTCUTS]
PLACES = {"res1": [0, 1, 2], "res2": [0, 1, 2], "in": [0, 1, 2], "cut": [0, 1], "mid": [1, 2]}

each_kind = pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: "+".join(kinds))
each_family = pytest.mark.parametrize("family", [*POST_NORM, *PRE_NORM])


def wired(
    fresh: Fresh, family: str, kinds: tuple[str, ...], norm: str = "fused", targets: tuple[str, ...] = ()
) -> AdaptedModel:
    section = AdapterSection(rank=8, shortcut_rank=2, shortcut_alpha=4, shortcut_norm=norm)
    adapted = adapt(fresh(family, layers=LAYERS), section, targets=targets, shortcuts=kinds)
    disturb(adapted)
    return adapted


def last_output(adapted: AdaptedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the wired model's last layer returns, hooks included."""
    outputs: list[Any] = []
    handle = adapted.backbone.anatomy.layers[-1][1].register_forward_hook(
        lambda module, args, output: outputs.append(output[0] if isinstance(output, tuple) else output)
    )
    adapted.model(**batch)
    handle.remove()
    return outputs[0]


def by_hand(
    fresh: Fresh, family: str, adapted: AdaptedModel, norm: str
) -> tuple[torch.Tensor, dict[tuple[int, str], Low]]:
    """The same from a model that was never wired, with copies of the shortcuts' tensors to read gradients from."""
    lows = {
        (adapter.site.layer, adapter.site.role): Low(
            adapter.delta.A.detach().clone().requires_grad_(),
            adapter.delta.B.detach().clone().requires_grad_(),
            scale=4 / 2,
            on=adapter.state != "dropped",
        )
        for adapter in adapted.adapters.values()
    }
    pretrained = fresh(family, layers=LAYERS, shared=True)
    layers = [layer for _, layer in pretrained.anatomy.layers]
    return run_by_hand(pretrained.model, family, layers, batch_for(pretrained.model), lows, norm), lows


def check_by_hand(fresh: Fresh, family: str, adapted: AdaptedModel, norm: str) -> None:
    """Equal outputs, and equal gradients on A and B of every site that is on."""
    out = last_output(adapted, batch_for(adapted.model))
    expected, lows = by_hand(fresh, family, adapted, norm)
    assert_close(out, expected, rtol=1e-4, atol=1e-5)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(8))
    assert out.requires_grad == expected.requires_grad
    if out.requires_grad:
        (out * direction).sum().backward()
        (expected * direction).sum().backward()
    for adapter in adapted.adapters.values():
        low = lows[adapter.site.layer, adapter.site.role]
        for ours, theirs in ((adapter.delta.A, low.A), (adapter.delta.B, low.B)):
            if adapter.state != "on":
                assert ours.grad is None
                continue
            assert ours.grad is not None
            assert ours.grad.any()
            assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=float(1e-4 * theirs.grad.abs().max()))


@each_family
@each_kind
def test_fused_sums_are_those_of_the_formula(fresh: Fresh, family: str, kinds: tuple[str, ...]) -> None:
    adapted = wired(fresh, family, kinds)
    assert {(s.layer, s.role) for s in adapted.sites} == {(layer, kind) for kind in kinds for layer in PLACES[kind]}
    check_by_hand(fresh, family, adapted, "fused")


@pytest.mark.parametrize("family", sorted(set(BLOCKS) - {*POST_NORM, *PRE_NORM}))
@pytest.mark.parametrize("norm", ["fused", "paper"])
def test_every_other_family_is_wired_like_these(fresh: Fresh, family: str, norm: str) -> None:
    check_by_hand(fresh, family, wired(fresh, family, SHORTCUTS, norm), norm)


@pytest.mark.parametrize("family", POST_NORM)
@each_kind
@pytest.mark.parametrize("off", [False, True], ids=["on", "off"])
def test_the_papers_second_norm_is_applied_whether_the_shortcut_is_on_or_off(
    fresh: Fresh, family: str, kinds: tuple[str, ...], off: bool
) -> None:
    adapted = wired(fresh, family, kinds, "paper")
    if off:
        adapted.switch([])
    check_by_hand(fresh, family, adapted, "paper")
    batch = batch_for(adapted.model)
    same = torch.equal(
        evaluated(adapted.model, batch), evaluated(fresh(family, layers=LAYERS, shared=True).model, batch)
    )
    assert same == (off and set(kinds) <= {"res1", "res2"})


@pytest.mark.parametrize("family", PRE_NORM)
def test_a_pre_norm_block_has_no_second_norm(fresh: Fresh, family: str) -> None:
    check_by_hand(fresh, family, wired(fresh, family, SHORTCUTS, "paper"), "paper")


@each_family
@pytest.mark.parametrize("norm", ["fused", "paper"])
def test_any_mixture_of_on_frozen_and_dropped(fresh: Fresh, family: str, norm: str) -> None:
    adapted = wired(fresh, family, SHORTCUTS, norm)
    names = list(adapted.adapters)
    for start in range(3):
        adapted.restore({name: ("on", "dropped", "frozen")[(i + start) % 3] for i, name in enumerate(names)})
        adapted.model.zero_grad()
        check_by_hand(fresh, family, adapted, norm)


@each_family
def test_a_fresh_model_is_the_pretrained_one_bit_for_bit(fresh: Fresh, family: str) -> None:
    adapted = adapt(fresh(family), AdapterSection(rank=2), shortcuts=SHORTCUTS)
    batch = batch_for(adapted.model)
    assert len(adapted.on) > 2 * 4
    assert torch.equal(evaluated(adapted.model, batch), evaluated(fresh(family, shared=True).model, batch))
    backward(adapted.model, batch)
    for adapter in adapted.adapters.values():  # with B = 0 the first gradient is B's
        assert adapter.delta.B.grad.any(), adapter.site.label
        assert not adapter.delta.A.grad.any(), adapter.site.label


@each_family
def test_no_hook_is_left_when_all_are_off(fresh: Fresh, family: str) -> None:
    adapted = wired(fresh, family, SHORTCUTS, targets=("all",))
    batch = batch_for(adapted.model)
    assert hooks(adapted.model) > 0
    for _ in range(2):  # and switching on again adds none twice
        adapted.switch(adapted.adapters)
        count, out = hooks(adapted.model), evaluated(adapted.model, batch)
        adapted.switch([])
        assert hooks(adapted.model) == 0
        assert torch.equal(
            evaluated(adapted.model, batch), evaluated(fresh(family, layers=LAYERS, shared=True).model, batch)
        )
    adapted.switch(adapted.adapters)
    assert hooks(adapted.model) == count
    assert torch.equal(evaluated(adapted.model, batch), out)


@each_family
def test_freezing_keeps_the_function(fresh: Fresh, family: str) -> None:
    adapted = wired(fresh, family, SHORTCUTS)
    batch = batch_for(adapted.model)
    before = evaluated(adapted.model, batch)
    adapted.switch([], off="freeze")
    assert torch.equal(evaluated(adapted.model, batch), before)
    assert not any(p.requires_grad for adapter in adapted.adapters.values() for p in adapter.parameters())


def test_below_the_lowest_shortcut_nothing_is_recorded(fresh: Fresh) -> None:
    adapted = wired(fresh, "bert", SHORTCUTS)
    adapted.switch([site.name for site in adapted.sites if site.layer == 2])
    outputs: list[torch.Tensor] = []
    for _, layer in adapted.backbone.anatomy.layers[:2]:
        layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    backward(adapted.model, batch_for(adapted.model))
    assert [output.grad_fn for output in outputs] == [None, None]


@each_family
def test_linear_sites_and_shortcuts_work_together(fresh: Fresh, family: str) -> None:
    """By hand once more, on a model that has the linear sites' effective weights."""
    adapted = wired(fresh, family, SHORTCUTS, targets=("all",))
    reference = fresh(family, layers=LAYERS)
    for model in (adapted.model, reference.model, *adapted.adapters.values()):
        model.double()
    with torch.no_grad():
        for site in reference.anatomy.sites:
            weight = reference.model.get_submodule(site.name).weight
            update = adapted.adapters[site.name].effective_weight(
                torch.zeros_like(weight.T if site.kind == "conv1d" else weight)
            )
            weight.add_(update.T if site.kind == "conv1d" else update)
    lows = {
        (site.layer, site.role): Low(adapted.adapters[site.name].delta.A, adapted.adapters[site.name].delta.B, 2.0)
        for site in adapted.sites
        if site.is_shortcut
    }
    batch = batch_for(reference.model)
    layers = [layer for _, layer in reference.anatomy.layers]
    expected = run_by_hand(reference.model, family, layers, batch, lows, "fused")
    assert_close(last_output(adapted, batch), expected, rtol=1e-4, atol=1e-5)


@each_family
def test_frozen_weights_in_bfloat16(fresh: Fresh, family: str) -> None:
    section = AdapterSection(rank=2, alpha=1)
    half = adapt(fresh(family, dtype="bfloat16"), section, shortcuts=SHORTCUTS)
    full = adapt(fresh(family), section, shortcuts=SHORTCUTS)
    batch = batch_for(half.model)
    assert torch.equal(
        evaluated(half.model, batch), evaluated(fresh(family, dtype="bfloat16", shared=True).model, batch)
    )
    disturb(half)
    disturb(full)
    assert near(evaluated(half.model, batch), evaluated(full.model, batch))
    backward(half.model, batch)
    assert all(tensor.parameter.grad.dtype == torch.float32 for tensor in half.trained())


@each_family
def test_bfloat16_autocast(fresh: Fresh, family: str) -> None:
    adapted = wired(fresh, family, SHORTCUTS)
    batch = batch_for(adapted.model)
    exact = evaluated(adapted.model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert near(evaluated(adapted.model, batch), exact)
        backward(adapted.model, batch)
    assert all(tensor.parameter.grad.isfinite().all() for tensor in adapted.trained())


@each_family
def test_gradient_checkpointing_changes_no_gradient(fresh: Fresh, family: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        adapted = wired(fresh, family, SHORTCUTS, targets=("all",))
        adapted.model.train()
        torch.manual_seed(0)  # for dropout, which recomputing repeats
        if checkpointing:
            adapted.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        backward(adapted.model, batch_for(adapted.model))
        gradients.append([tensor.parameter.grad for tensor in adapted.trained()])
    assert_close(gradients[1], gradients[0])
