"""DyLoRA: each step is a LoRA of a random rank, and the result is one of every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.adapters.cases import disturb, evaluated
from support.search.scene import SECTION, Scene
from support.search.unit_contract import KINDS, STEPS, TICKS, act, check_repetition, optimizer_for
from support.thinned import thinned

from lorakit.adapters.adapter import Adapter
from lorakit.errors import RecipeError

Make = Callable[..., Scene]
SHORTCUTS = ["res1", "mid"]
R, ALPHA, SHORT_ALPHA = 3, 5.0, 3.0  # of support.search.scene; its shortcuts have rank 2


def scene_of(make: Make, **section: Any) -> Scene:
    return make("bert", targets=["q", "v"], shortcuts=SHORTCUTS, **section)


def dylora(scene: Scene, seed: int = 0, **search: Any) -> Any:
    return scene.allocator(seed, method="dylora", total_steps=STEPS, ticks=TICKS, **search)


def train(scene: Scene, allocator: Any, look: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """The records of the ticks; ``look`` is called after every step, its gradients still there."""
    ended = allocator.after_step

    def after_step(step: int) -> None:
        look()
        ended(step)

    allocator.after_step = after_step
    return act(scene, allocator, optimizer_for(scene), range(STEPS))


def tensors(adapter: Adapter) -> dict[str, torch.nn.Parameter]:
    """Whole, also where the adapter is cut."""
    return {name: tensor for name, tensor, _ in adapter.tensors()}


def test_a_step_is_that_of_lora_at_its_rank_and_scale(make: Make) -> None:
    """Against a LoRA built at rank b, with B[:, :b], A[:b] and alpha / b."""
    scene = scene_of(make)
    allocator = dylora(scene)
    disturb(scene.adapted)
    batch = {name: tensor for name, tensor in scene.batches()[0].items() if name != "labels"}
    ranks = set()
    for step in range(6):
        allocator.before_forward(step)
        b = allocator.sampled
        ranks.add(b)
        lora = scene_of(make, rank=b, shortcut_rank=min(b, 2)).adapted
        for name, adapter in scene.adapted.adapters.items():
            width, alpha = min(b, adapter.rank), SHORT_ALPHA if adapter.site.is_shortcut else ALPHA
            assert adapter.scale == lora.adapters[name].scale == alpha / width
            with torch.no_grad():
                lora.adapters[name].delta.A.copy_(tensors(adapter)["A"][:width])
                lora.adapters[name].delta.B.copy_(tensors(adapter)["B"][:, :width])
        assert torch.equal(evaluated(scene.adapted.model, batch), evaluated(lora.model, batch))
        allocator.after_step(step + 1)
        for adapter in scene.adapted.adapters.values():
            assert adapter.units.live == adapter.rank
            assert adapter.scale == (SHORT_ALPHA if adapter.site.is_shortcut else ALPHA) / adapter.rank
    assert ranks == {1, 2, 3}


@pytest.mark.parametrize("frozen", ["none", "earlier"])
def test_gradients_reach_the_units_of_the_step(make: Make, frozen: str) -> None:
    scene = scene_of(make)
    allocator = dylora(scene, options={"frozen": frozen})
    disturb(scene.adapted)

    def look() -> None:
        for adapter in scene.adapted.adapters.values():
            first = min(allocator.sampled, adapter.rank) - 1 if frozen == "earlier" else 0
            expected = [first <= unit < allocator.sampled for unit in range(adapter.rank)]
            assert tensors(adapter)["A"].grad.any(dim=1).tolist() == expected
            assert tensors(adapter)["B"].grad.any(dim=0).tolist() == expected

    train(scene, allocator, look)


def test_in_a_core_the_last_unit_is_a_row_and_a_column(make: Make) -> None:
    scene = make("bert", targets=["q"], method="flora")
    allocator = dylora(scene, options={"frozen": "earlier"})
    disturb(scene.adapted)

    def look() -> None:
        b = allocator.sampled
        expected = torch.zeros(R, R, dtype=torch.bool)
        expected[b - 1, :b] = expected[:b, b - 1] = True
        for adapter in scene.adapted.adapters.values():
            assert torch.equal(tensors(adapter)["G"].grad != 0, expected)

    train(scene, allocator, look)


@pytest.mark.parametrize("kind", thinned(["low_rank", "core", "shared vectors", "magnitude", "anchored"], 3))
def test_every_kind_of_adapter_repeats_and_resumes(make: Make, kind: str) -> None:
    def build(seed: int = 0) -> tuple[Scene, Any]:
        scene = scene_of(make, **KINDS[kind])
        return scene, dylora(scene, seed, options={"frozen": "earlier" if kind == "low_rank" else "none"})

    check_repetition(build)


def test_ticks_record_all_ranks(make: Make) -> None:
    scene = scene_of(make)
    allocator = dylora(scene)
    full = {site.name: 2 if site.is_shortcut else R for site in scene.adapted.sites}
    for tick in train(scene, allocator):
        assert (tick["ranks"], tick["churn"], tick["scores"]) == (full, 0.0, {})
        assert tick["parameters"] == tick["budget"] == 4 * R * 64 + 3 * 2 * 64
    assert allocator.state_dict()["units"] == {}


def test_a_budget_leaves_the_largest_rank_that_it_holds_everywhere(make: Make) -> None:
    """A unit costs 64; rank 2 on 4 linear sites and 3 shortcuts costs 14 of them, and 17 do not pay for 4 more."""
    scene = scene_of(make)
    allocator = dylora(scene, parameters=17 * 64)
    drawn = set()
    ticks = train(scene, allocator, lambda: drawn.add(allocator.sampled))
    assert drawn == {1, 2}
    assert {tick["parameters"] for tick in ticks} == {14 * 64}
    batch = {name: tensor for name, tensor in scene.batches()[0].items() if name != "labels"}
    out = evaluated(scene.adapted.model, batch)
    allocator.finish()
    assert torch.allclose(evaluated(scene.adapted.model, batch), out, rtol=1e-5, atol=1e-6)
    for adapter in scene.adapted.adapters.values():
        assert adapter.units.live == 2
        assert adapter.scale == (SHORT_ALPHA if adapter.site.is_shortcut else ALPHA) / 2
        assert not adapter.delta.B[:, 2:].any()
    assert scene.adapted.adapter_parameters() == 14 * 64


@pytest.mark.parametrize(
    ("section", "search", "match"),
    [
        ({"method": "loretta_rep"}, {}, "has none to take"),
        ({}, {"parameters": 100}, "needs rank 1 on all 4 sites"),
        ({}, {"options": {"frozen": "perhaps"}}, "frozen: perhaps"),
        ({}, {"options": {"frosen": "earlier"}}, "no option 'frosen'"),
    ],
)
def test_what_is_refused(make: Make, section: dict[str, Any], search: dict[str, Any], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        dylora(make("bert", targets=["q", "v"], **section), **search)


def test_scene_is_as_told() -> None:
    assert (SECTION.rank, SECTION.alpha, SECTION.shortcut_rank, SECTION.shortcut_alpha) == (R, ALPHA, 2, SHORT_ALPHA)
