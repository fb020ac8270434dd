"""ALoRA: its scores by hand, where freed units go, and a total that stays."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.adapters.cases import disturb
from support.search.scene import Scene, loss
from support.search.unit_contract import KINDS, STEPS, act, check_closed, check_repetition, counted, optimizer_for

from lorakit.errors import RecipeError

Make = Callable[..., Scene]
RANK, START, UNIT = 4, 2, 64


def scene_of(make: Make, **section: Any) -> Scene:
    return make("bert", targets=["q", "v"], **{"rank": RANK, **section})


def alora(scene: Scene, seed: int = 0, **search: Any) -> Any:
    search = {"uniform_rank": START, "batches": 1, **search}
    return scene.allocator(seed, method="alora", total_steps=STEPS, ticks=(0, 4, 8), **search)


def masked_loss(scene: Scene, batch: Any, live: Callable[[str, int], bool]) -> float:
    """The loss of a copy of the model in which only these units have a column of B."""
    twin = copy.deepcopy(scene.adapted)
    for name, adapter in twin.adapters.items():
        for unit in range(adapter.rank):
            if not live(name, unit):
                adapter.delta.B.data[:, unit] = 0
    with torch.no_grad():
        return float(loss(twin.model, batch))


@pytest.mark.parametrize("alone", ["model", "site"])
def test_scores_are_those_of_the_formula(make: Make, alone: str) -> None:
    scene = scene_of(make)
    allocator = alora(scene, data="first", options={"alone": alone})
    disturb(scene.adapted)
    allocator.keep({name: torch.tensor([True, False, True, False]) for name in scene.adapted.adapters})
    (batch,) = scene.batches(1)
    before = {name: tensor.clone() for name, tensor in scene.adapted.tensors().items()}
    scores = allocator.unit_scores()
    for name, tensor in scene.adapted.tensors().items():
        assert torch.equal(tensor, before[name])
    for site in scene.adapted.adapters:
        for unit in (0, 2):
            without = masked_loss(scene, batch, lambda n, u, s=site, i=unit: (n, u) != (s, i))
            only = masked_loss(
                scene, batch, lambda n, u, s=site, i=unit: (n == s and u == i) or (alone == "site" and n != s)
            )
            assert float(scores[site][unit]) == pytest.approx(without - only, abs=1e-6)
        assert scores[site][1] == scores[site][3] == 0


def given(allocator: Any, values: list[list[float]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(row) for name, row in zip(allocator.adapters, values, strict=True)}


def test_the_lowest_move_to_the_sites_that_lost_none(make: Make) -> None:
    scene = scene_of(make)
    allocator = alora(scene, options={"per_site": "0.75"})  # three of four sites
    a, b, c, d = allocator.adapters
    scores = given(allocator, [[0.1, 0.2, 0, 0], [0.9, 0.8, 0, 0], [0.3, 5.0, 0, 0], [1.9, 1.8, 0, 0]])
    live = allocator.moved(scores, {name: adapter.units.mask for name, adapter in allocator.adapters.items()})
    # both of a go and the first of c; d, with the better mean, is served before b: two units for d, one for b
    assert not live[a].any()
    assert live[b].tolist() == [True, True, True, False]
    assert live[c].tolist() == [False, True, False, False]
    assert live[d].tolist() == [True, True, True, True]
    allocator.keep(live)
    # now d is full and b has room for one: two are closed, one moves, and the better of the two goes back
    allocator.settings["per_site"] = 0.5
    scores = given(allocator, [[0.0] * 4, [3.0] * 4, [0, 0.5, 0, 0], [2.0, 2.0, 2.0, 0.4]])
    live = allocator.moved(scores, {name: adapter.units.mask for name, adapter in allocator.adapters.items()})
    assert live[b].all()
    assert not live[a].any()
    assert sum(int(units.sum()) for units in live.values()) == 4 * START
    assert live[c].tolist() == [False, True, False, False]
    assert live[d].tolist() == [True, True, True, False]


def test_new_units_add_nothing_and_are_as_drawn_while_there_are_such(make: Make) -> None:
    scene = scene_of(make)
    drawn = {name: tensor.clone() for name, tensor in scene.adapted.tensors().items()}
    allocator, opened = alora(scene), []

    def look() -> None:
        for name, adapter in scene.adapted.adapters.items():
            for unit in range(START, RANK):
                if adapter.units.mask[unit]:
                    opened.append(unit)
                    assert not adapter.delta.B[:, unit].any()
                    assert torch.equal(adapter.delta.A[unit], drawn[f"{name}.A"][unit])

    act(scene, allocator, optimizer_for(scene), range(5), look)
    assert opened


@pytest.mark.parametrize("kind", ["low_rank", "magnitude"])
def test_the_total_is_the_budget_after_every_tick(make: Make, kind: str) -> None:
    scene = scene_of(make, **KINDS[kind])
    allocator = alora(scene)
    totals, ranks = [], set()

    def look() -> None:
        totals.append(counted(scene))
        ranks.add(tuple(scene.adapted.ranks().values()))

    for tick in act(scene, allocator, optimizer_for(scene), range(STEPS), look):
        assert tick["budget"] == allocator.context.budget.parameters
        # a site without units gives its magnitude back too, and that pays for half a unit only
        assert tick["parameters"] in (
            (tick["budget"],) if kind == "low_rank" else (tick["budget"], tick["budget"] - 32)
        )
    assert [tick == 4 * START * UNIT for tick in totals] == [kind == "low_rank"] * 3
    assert len(ranks) > 1
    assert (START,) * 4 in ranks


def test_sites_of_different_size_stay_within_it(make: Make) -> None:
    scene = make("bert", targets=["q", "up"], shortcuts=["res1"], rank=RANK)
    allocator = alora(scene, enable=0.6, uniform_rank=None)
    for tick in act(scene, allocator, optimizer_for(scene), range(STEPS)):
        assert tick["parameters"] <= tick["budget"] == allocator.context.budget.parameters


def test_rounds_end(make: Make) -> None:
    scene = scene_of(make)
    allocator = alora(scene, options={"rounds": "1"})
    first, second, third = act(scene, allocator, optimizer_for(scene), range(STEPS))
    assert first["scores"] == third["scores"] == {}
    assert first["ranks"] != second["ranks"] == third["ranks"]
    assert all(math.isfinite(score) for score in second["scores"].values())


@pytest.mark.parametrize(("kind", "check"), [("core", check_closed), ("low_rank", check_repetition)])
def test_contract(make: Make, kind: str, check: Callable[[Any], None]) -> None:
    def build(seed: int = 0) -> tuple[Scene, Any]:
        scene = scene_of(make, **KINDS[kind])
        return scene, alora(scene, seed)

    check(build)


def test_a_start_must_fit(make: Make) -> None:
    with pytest.raises(RecipeError, match="needs rank 1 on all 4 sites"):
        alora(scene_of(make), uniform_rank=None, parameters=3 * UNIT)
