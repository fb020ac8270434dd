"""EVA's ranks: from the explained variance of inputs by numpy, and next to PEFT's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import EvaConfig, LoraConfig, get_eva_state_dict
from support.search.scene import Scene
from support.search.unit_contract import STEPS, act, check_repetition, counted, optimizer_for
from support.thinned import thinned
from torch.testing import assert_close

from lorakit.errors import RecipeError

Make = Callable[..., Scene]
RANK, BUDGET = 8, 2


def scene_of(make: Make, **section: Any) -> Scene:
    return make(
        "bert", **{"targets": ["q", "o"], "rank": RANK, **section}
    )  # 4 sites, 32 x 32, each with inputs of its own


def eva(scene: Scene, seed: int = 0, **search: Any) -> Any:
    settings = {"method": "eva", "uniform_rank": BUDGET, "total_steps": STEPS, "ticks": (0, 5, 9), "data": "first"}
    return scene.allocator(seed, **{**settings, **search})


def inputs_of(scene: Scene, batch: Any) -> dict[str, np.ndarray]:
    """What every site takes in on the pretrained model, padding left out."""
    model, found = copy.deepcopy(scene.pretrained).eval(), {}
    for name in scene.adapted.adapters:
        model.get_submodule(name).register_forward_pre_hook(lambda m, args, name=name: found.update({name: args[0]}))
    with torch.no_grad():
        model(**{key: tensor for key, tensor in batch.items() if key != "labels"})
    real = batch["attention_mask"].bool()
    return {name: x[real].double().numpy() for name, x in found.items()}


def test_units_are_worth_the_variance_they_explain(make: Make) -> None:
    scene = scene_of(make)
    allocator = eva(scene, batches=1)
    (batch,) = scene.batches(1)
    scores = allocator.unit_scores()
    for name, x in inputs_of(scene, batch).items():
        singular = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
        assert_close(scores[name], torch.tensor((singular / singular.sum())[:RANK]), rtol=1e-3, atol=1e-6)


def test_ranks_are_peft_s(make: Make) -> None:
    scene = scene_of(make)
    (batch,) = scene.batches(1)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    config = LoraConfig(
        r=BUDGET,
        init_lora_weights="eva",
        target_modules=list(scene.adapted.adapters),
        eva_config=EvaConfig(rho=RANK / BUDGET),
    )
    theirs = get_eva_state_dict(copy.deepcopy(scene.pretrained), [inputs], config, show_progress_bar=False)
    ranks = {name.removeprefix("base_model.model."): len(directions) for name, directions in theirs.items()}
    tick = eva(scene, batches=1).tick(0, 0.0)
    assert len(set(ranks.values())) > 1
    assert {name: rank for name, rank in tick.ranks.items() if rank} == ranks
    assert tick.parameters == tick.budget == counted(scene) == 4 * BUDGET * 64


def test_a_site_keeps_the_first_directions_of_init_eva(make: Make) -> None:
    scene = scene_of(make, init="eva")
    drawn = {name: tensor.clone() for name, tensor in scene.adapted.tensors().items()}
    scales = {name: adapter.scale for name, adapter in scene.adapted.adapters.items()}
    allocator = eva(scene)
    ticks = act(scene, allocator, optimizer_for(scene, weight_decay=0.1), range(STEPS))
    assert len({tuple(tick["ranks"].values()) for tick in ticks}) == 1
    for name, adapter in scene.adapted.adapters.items():
        assert adapter.scale == scales[name]
        assert adapter.units.live == ticks[0]["ranks"][name]
        whole = {key: tensor for key, tensor, _ in adapter.tensors()}
        assert not whole["B"][:, adapter.units.live :].any()
        assert torch.equal(whole["A"][adapter.units.live :], drawn[f"{name}.A"][adapter.units.live :])


@pytest.mark.parametrize("kind", thinned(["dora", "lora"], 2))
def test_repeats_and_resumes(make: Make, kind: str) -> None:
    def build(seed: int = 0) -> tuple[Scene, Any]:
        scene = scene_of(make, method=kind)
        return scene, eva(scene, seed, data="sampled")

    check_repetition(build)


@pytest.mark.parametrize(
    ("section", "search", "match"),
    [
        ({"shortcuts": ["res1"]}, {}, "is a shortcut"),
        ({}, {"ticks": (3, 6)}, "the first tick is at 3"),
        ({"method": "loretta_rep"}, {}, "has none to take"),
    ],
)
def test_what_is_refused(make: Make, section: dict[str, Any], search: dict[str, Any], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        eva(scene_of(make, **section), **search)
