"""PRILoRA: ranks by depth, and entries of A zeroed by magnitude times input norm, both by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.search.scene import Scene
from support.search.unit_contract import STEPS, act, check_repetition, counted, optimizer_for
from support.thinned import thinned

from lorakit.errors import RecipeError

Make = Callable[..., Scene]
WIDTH, TICKS = 32, (0, 4, 8)


def scene_of(make: Make, **section: Any) -> Scene:
    return make("bert", **{"targets": ["q", "v"], "rank": 12, **section})


def prilora(scene: Scene, seed: int = 0, **search: Any) -> Any:
    settings = {"method": "prilora", "uniform_rank": 8, "total_steps": STEPS, "ticks": TICKS}
    return scene.allocator(seed, **{**settings, **search})


def test_ranks_grow_from_4_to_12(make: Make) -> None:
    scene = scene_of(make)
    allocator = prilora(scene)
    tick = allocator.tick(0, 0.0)
    assert {name: 4 if ".0." in name else 12 for name in scene.adapted.adapters} == tick.ranks
    assert tick.parameters == tick.budget == counted(scene) == 32 * 64
    assert all(adapter.scale == 5.0 / adapter.units.live for adapter in scene.adapted.adapters.values())


@pytest.mark.parametrize(
    ("search", "ranks"),
    [
        ({"uniform_rank": 4}, {0: 2, 1: 6}),
        ({"uniform_rank": 12}, {0: 12, 1: 12}),  # no site has more than adapter.rank
        ({"options": {"first": "1", "last": "1"}}, {0: 8, 1: 8}),
        ({"options": {"first": "0", "last": "1"}, "uniform_rank": 6}, {0: 0, 1: 12}),
    ],
)
def test_shares_are_scaled_to_the_budget(make: Make, search: dict[str, Any], ranks: dict[int, int]) -> None:
    scene = scene_of(make)
    tick = prilora(scene, **search).tick(0, 0.0)
    assert {scene.adapted.adapters[name].site.layer: rank for name, rank in tick.ranks.items()} == ranks
    assert tick.parameters == tick.budget


def zeroed(scene: Scene) -> dict[str, torch.Tensor]:
    """Site -> which entries of its live rows of A are zero."""
    return {name: adapter.delta.tensor("A").detach() == 0 for name, adapter in scene.adapted.adapters.items()}


@pytest.mark.parametrize("zeros", ["free", "held"])
def test_the_lowest_of_each_row_are_zeroed(make: Make, zeros: str) -> None:
    """smooth 0: the step before the tick alone counts, whose inputs are caught by hooks of our own."""
    scene = scene_of(make)
    allocator = prilora(scene, options={"smooth": "0", "prune": "0.25", "zeros": zeros}, batches=1)
    optimizer = optimizer_for(scene)
    seen: dict[str, torch.Tensor] = {}
    for name, adapter in scene.adapted.adapters.items():
        assert adapter.base is not None
        adapter.base.register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0].detach()}))
    act(scene, allocator, optimizer, range(4))
    real = scene.batches(4)[3]["attention_mask"].bool()
    rows = {name: adapter.delta.tensor("A").detach().clone() for name, adapter in scene.adapted.adapters.items()}
    allocator.tick(4, 1.0)
    for name, found in zeroed(scene).items():
        norms = torch.stack([seen[name][real][:, j].norm() for j in range(WIDTH)])
        for unit, row in enumerate(rows[name]):
            importance = row.abs() * norms
            lowest = importance.argsort()[: WIDTH // 4]
            assert found[unit].nonzero().flatten().tolist() == sorted(lowest.tolist())
    before = zeroed(scene)
    allocator.context.ticks[:] = [0]
    act(scene, allocator, optimizer, range(5, 8))
    for name, found in zeroed(scene).items():
        assert torch.equal(found, before[name]) if zeros == "held" else not found.any()


def test_inputs_are_looked_at_in_the_steps_before_a_tick_alone(make: Make) -> None:
    scene = scene_of(make, shortcuts=["res1"])
    allocator, looked = prilora(scene, batches=2), []
    taken = allocator.after_backward

    def after_backward(step: int) -> None:
        looked.append((step, set(allocator.sums)))
        taken(step)

    allocator.after_backward = after_backward
    act(scene, allocator, optimizer_for(scene), range(STEPS))
    on = set(scene.adapted.on)
    assert looked == [(step, on if step in (2, 3, 6, 7) else set()) for step in range(STEPS)]
    assert not any(module._forward_pre_hooks for name, module in allocator.modules.items() if name in on)


@pytest.mark.parametrize("kind", thinned(["dora", "trilora"], 2))
def test_repeats_and_resumes(make: Make, kind: str) -> None:
    def build(seed: int = 0) -> tuple[Scene, Any]:
        scene = scene_of(make, method=kind)
        return scene, prilora(scene, seed, options={"zeros": "held"})

    check_repetition(build)


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"method": "lora_fa"}, "trained A"),
        ({"method": "vera"}, "trained A"),
        ({"method": "pissa"}, "trained A"),
        ({"method": "bitfit"}, "has none to take"),
    ],
)
def test_what_is_refused(make: Make, section: dict[str, Any], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        prilora(scene_of(make, **section), uniform_rank=None)
