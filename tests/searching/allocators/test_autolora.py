"""AutoLoRA: the step of the shares by finite differences and Adam's formula, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from support.adapters.cases import disturb
from support.search.scene import Scene, loss
from support.search.unit_contract import STEPS, act, check_closed, check_repetition, counted, optimizer_for, summed

from lorakit.errors import RecipeError

Make = Callable[..., Scene]
RANK, TICKS = 4, (0, 3, 8)


def scene_of(make: Make, **section: Any) -> Scene:
    return make("bert", **{"targets": ["q", "v"], "shortcuts": ["res1"], "rank": RANK, "method": "autolora", **section})


def autolora(scene: Scene, seed: int = 0, **search: Any) -> Any:
    return scene.allocator(seed, **{"method": "autolora", "total_steps": STEPS, "ticks": TICKS, **search})


def test_a_step_of_the_shares_is_adam_s_at_the_gradient_of_first_order(make: Make) -> None:
    scene = scene_of(make)
    disturb(scene.adapted)
    scene.adapted.model.double().eval()
    allocator = autolora(scene, data="first", options={"lr": "0.01", "period": "2"})
    (batch,) = scene.batches(1)
    summed(scene.adapted.model, scene.batches(2)[1]).backward()
    gradients = {t.name: t.parameter.grad.clone() for t in scene.adapted.trained()}
    before = {name: tensor.clone() for name, tensor in scene.adapted.tensors().items()}
    slope = {}
    with torch.no_grad():
        for name, alpha in allocator.alphas.items():
            for unit in range(len(alpha)):
                ends = []
                for shift in (1e-4, -2e-4):
                    alpha[unit] += shift
                    ends.append(float(loss(scene.adapted.model, batch)))
                alpha[unit] += 1e-4
                slope[name, unit] = (ends[0] - ends[1]) / 2e-4
    torch.manual_seed(5)
    allocator.after_step(1)
    assert all(
        torch.equal(t, before[name]) for name, t in scene.adapted.tensors().items() if not name.endswith("alpha")
    )
    allocator.after_step(2)
    assert allocator.adam.defaults["betas"] == (0.5, 0.999)  # ruz048/AutoLoRA
    for (name, unit), gradient in slope.items():  # Adam's first step: lr g / (|g| + eps)
        moved = allocator.alphas[name][unit] - before[f"{name}.alpha"][unit]
        assert float(moved) == pytest.approx(-0.01 * gradient / (abs(gradient) + 1e-8), rel=1e-2)
    for name, tensor in scene.adapted.tensors().items():
        if not name.endswith("alpha"):
            assert torch.equal(tensor, before[name])
    assert all(torch.equal(t.parameter.grad, gradients[t.name]) for t in scene.adapted.trained())
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(5))
    assert not any(alpha.requires_grad for alpha in allocator.alphas.values())


def test_the_largest_shares_stay_at_the_last_tick(make: Make) -> None:
    """rank * share decides, so that ranks may differ: shortcuts have 2 units of 64, the 4 linear sites 4 of 64."""
    scene = scene_of(make)
    allocator = autolora(scene, parameters=9 * 64)
    adapters = scene.adapted.adapters
    shares = {name: torch.linspace(1, 2, adapters[name].rank) ** (2 + i / 3) for i, name in enumerate(adapters)}
    for name, alpha in allocator.alphas.items():
        alpha.data = (shares[name] / shares[name].sum()).log()
    worth = {
        (name, unit): len(share) * float(share[unit] / share.sum())
        for name, share in shares.items()
        for unit in range(len(share))
    }
    assert allocator.tick(0, 0.0).ranks == {name: adapter.rank for name, adapter in adapters.items()}
    tick = allocator.tick(8, 1.0)
    best = sorted(worth, key=lambda unit: -worth[unit])[:9]
    assert tick.ranks == {name: sum(site == name for site, _ in best) for name in shares}
    assert tick.parameters == 9 * 64 == counted(scene)
    assert tick.scores == {name: sum(w >= 1 for (site, _), w in worth.items() if site == name) for name in shares}
    for name, unit in best:
        assert adapters[name].units.mask[unit]


def test_the_search_ends_with_the_last_tick(make: Make) -> None:
    scene = scene_of(make)
    allocator, seen = autolora(scene, enable=0.5), []
    ended = allocator.after_step

    def after_step(step: int) -> None:
        ended(step)
        seen.append([alpha.clone() for alpha in allocator.alphas.values()])

    allocator.after_step = after_step
    ticks = act(scene, allocator, optimizer_for(scene), range(STEPS))
    moved = [any(not torch.equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in pairwise(seen)]
    assert moved == [True] * 7 + [False] * 4
    assert [tick["budget"] for tick in ticks] == [20 * 64, 20 * 64, 10 * 64]
    assert [tick["parameters"] for tick in ticks] == [20 * 64, 20 * 64, 10 * 64]


@pytest.mark.parametrize("check", [check_closed, check_repetition])
def test_contract(make: Make, check: Callable[[Any], None]) -> None:
    def build(seed: int = 0) -> tuple[Scene, Any]:
        scene = scene_of(make)
        return scene, autolora(scene, seed, options={"period": "2", "lr": "0.1"})

    check(build)


@pytest.mark.parametrize(
    ("section", "search", "match"),
    [
        ({"method": "lora"}, {}, "has none"),
        ({"trainable": "all"}, {}, "two optimisers"),
        ({}, {"ticks": (0,)}, "a tick after step 0"),
        ({}, {"options": {"period": "0"}}, "period: 0"),
    ],
)
def test_what_is_refused(make: Make, section: dict[str, Any], search: dict[str, Any], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        autolora(scene_of(make, **section), **search)
