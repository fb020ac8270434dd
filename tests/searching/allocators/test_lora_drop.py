"""LoRA-drop: what sites add, by hand; the choice within the budget; starting anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from support.adapters.cases import disturb, evaluated
from support.search.scene import Scene
from support.search.unit_contract import STEPS, act, check_repetition, optimizer_for
from support.thinned import thinned

from lorakit.errors import RecipeError

Make = Callable[..., Scene]
TICKS = (0, 4, 8)


def scene_of(make: Make, **section: Any) -> Scene:
    return make("bert", **{"targets": ["q", "v"], "shortcuts": ["res1", "mid"], **section})


def lora_drop(scene: Scene, seed: int = 0, **search: Any) -> Any:
    settings = {"method": "lora_drop", "total_steps": STEPS, "ticks": TICKS, "enable": 0.5}
    return scene.allocator(seed, **{**settings, **search})


def keep(seen: dict[str, torch.Tensor], name: str, module: Any, args: Any) -> None:
    seen[name] = args[0]


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_what_a_site_adds(make: Make, method: str) -> None:
    """Against the change of each layer's output, with and without its adapter, on the inputs of the whole model."""
    scene = scene_of(make, method=method)
    disturb(scene.adapted)
    before = {name: tensor.clone() for name, tensor in scene.adapted.tensors().items()}
    measured = lora_drop(scene, data="first", batches=2).measure()
    assert all(torch.equal(tensor, before[name]) for name, tensor in scene.adapted.tensors().items())
    expected = dict.fromkeys(measured, 0.0)
    twin = copy.deepcopy(scene.adapted)
    for batch in scene.batches(2):
        seen: dict[str, torch.Tensor] = {}
        hooks = [
            (a if a.base is None else a.base).register_forward_pre_hook(partial(keep, seen, n))
            for n, a in twin.adapters.items()
        ]
        evaluated(twin.model, {name: tensor for name, tensor in batch.items() if name != "labels"})
        for hook in hooks:
            hook.remove()
        for name, adapter in twin.adapters.items():
            x = seen[name][batch["attention_mask"].bool()].double()
            if adapter.base is None:
                change = adapter.scale * adapter.delta.dense().detach().double()
            else:
                weight = adapter.base_weight().double()
                change = adapter.double().effective_weight(weight).detach() - weight
                adapter.float()
            expected[name] += float((x @ change.T).square().sum())
    assert measured == pytest.approx(expected, rel=1e-3)


def test_the_largest_stay_within_the_budget_for_good(make: Make) -> None:
    """4 linear sites of 192 and 3 shortcuts of 128 parameters; half of them all is 576."""
    scene = scene_of(make)
    allocator = lora_drop(scene)
    first, second, third = act(scene, allocator, optimizer_for(scene), range(STEPS))
    assert first["parameters"] == first["budget"] == 4 * 192 + 3 * 128
    assert second["budget"] == 576 >= second["parameters"] > 576 - 128
    chosen, left = set(), 576
    for name in sorted(second["scores"], key=lambda name: -second["scores"][name]):
        price = 128 if scene.adapted.adapters[name].site.is_shortcut else 192
        if price <= left:
            chosen.add(name)
            left -= price
    assert set(second["on"]) == chosen == set(third["on"])
    assert scene.adapted.in_function == second["on"]
    assert third["scores"] == {}


@pytest.mark.parametrize("restart", ["none", "all"])
def test_starting_anew(make: Make, restart: str) -> None:
    scene = scene_of(make)
    optimizer = optimizer_for(scene)
    start = {name: tensor.clone() for name, tensor in scene.adapted.tensors().items()}
    allocator = lora_drop(scene, options={"restart": restart}, optimizer=optimizer)
    act(scene, allocator, optimizer, range(4))
    assert not any(torch.equal(t.parameter, start[t.name]) for t in scene.adapted.trained())
    allocator.tick(4, 1.0)
    for tensor in scene.adapted.trained():
        assert torch.equal(tensor.parameter, start[tensor.name]) == (restart == "all")
        moments = allocator.context.moments(tensor.parameter)
        assert len(moments) == 2
        assert all(not moment.any() for moment in moments) == (restart == "all")
    assert allocator.state_dict()["starts"] == {}


@pytest.mark.parametrize("kind", thinned(["lora", "svdiff"], 2))
def test_repeats_and_resumes(make: Make, kind: str) -> None:
    def build(seed: int = 0) -> tuple[Scene, Any]:
        scene = scene_of(make, method=kind)
        return scene, lora_drop(scene, seed, ticks=(0, 7))

    check_repetition(build)


@pytest.mark.parametrize(
    ("section", "search", "match"),
    [({}, {"ticks": (0,)}, "a tick after step 0"), ({"method": "bitfit", "shortcuts": []}, {}, "what a site adds")],
)
def test_what_is_refused(make: Make, section: dict[str, Any], search: dict[str, Any], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        lora_drop(scene_of(make, **section), **search)
