"""Ranks from the gradient's spectrum: by numpy's SVD of gradients taken weight by weight, and a budget filled by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from support.adapters.cases import evaluated
from support.search.scene import Scene, loss, train
from torch.testing import assert_close

from lorakit.errors import RecipeError
from lorakit.searching.scoring import without_trace
from lorakit.searching.site_moments import Seen
from lorakit.searching.spectra import cross_fitted, whitened

Make = Callable[..., Scene]
RANK = 6


@pytest.fixture
def scene(make: Make) -> Scene:
    return make("bert", targets=["q", "v", "up", "down"], rank=RANK)


def spectra(scene: Scene, batches: list[Any]) -> dict[str, np.ndarray]:
    """Site -> singular values of the mean gradient over all rows, on the pretrained model."""
    model = copy.deepcopy(scene.pretrained).requires_grad_(True)
    rows = sum(len(batch["labels"]) for batch in batches)
    for batch in batches:
        (loss(model, batch) * len(batch["labels"]) / rows).backward()
    return {
        name: np.linalg.svd(model.get_submodule(name).weight.grad.double().numpy(), compute_uv=False)
        for name in scene.adapted.adapters
    }


def drawn(scene: Scene, seed: int, number: int) -> list[Any]:
    """The batches that the search draws: after the seed of its passes."""
    stream = torch.Generator().manual_seed(seed)
    torch.randint(2**31, (), generator=stream)
    return scene.loader.sample(number, stream)


def filled(worth: dict[str, np.ndarray], cost_model: dict[str, int], limit: int, floor: int) -> dict[str, int]:
    """The floor for all, then the best units per parameter until nothing more fits."""
    ranks = dict.fromkeys(worth, floor)
    left = limit - sum(floor * price for price in cost_model.values())
    units = [(worth[name][k] / cost_model[name], name) for name in worth for k in range(floor, RANK)]
    for _, name in sorted(units, reverse=True):
        if cost_model[name] <= left:
            ranks[name] += 1
            left -= cost_model[name]
    return ranks


@pytest.mark.parametrize("power", [2.0, 1.0])
@pytest.mark.parametrize("per", ["network", "site"])
@pytest.mark.parametrize("floor", [0, 2])
def test_the_best_units_per_parameter_within_the_budget(scene: Scene, power: float, per: str, floor: int) -> None:
    options = {"power": str(power), "per": per, "floor": str(floor), "start": "init"}
    allocator = scene.allocator(3, method="gradsvd", uniform_rank=3, batches=2, options=options)
    tick = allocator.tick(0, 0.0)
    values = {name: s**power for name, s in spectra(scene, drawn(scene, 3, 2)).items()}
    worth = {name: (s / s.sum() if per == "site" else s)[:RANK] for name, s in values.items()}
    cost_model = {site.name: site.in_features + site.out_features for site in scene.adapted.sites}
    assert tick.ranks == filled(worth, cost_model, allocator.context.budget.parameters, floor)
    assert tick.parameters == sum(cost_model[name] * rank for name, rank in tick.ranks.items()) <= tick.budget
    assert tick.scores == pytest.approx({name: s.sum() for name, s in worth.items()}, rel=1e-3)
    assert allocator.tick(1, 0.1).ranks == tick.ranks


def test_the_start_is_the_pretrained_function_and_the_gradients_directions(scene: Scene) -> None:
    allocator = scene.allocator(3, method="gradsvd", uniform_rank=2, batches=2, options={"start": "svd"})
    allocator.tick(0, 0.0)
    batch = {key: value for key, value in scene.batches(1)[0].items() if key != "labels"}
    assert torch.equal(evaluated(scene.adapted.model, batch), evaluated(scene.pretrained, batch))
    batches = drawn(scene, 3, 2)
    rows = sum(len(b["labels"]) for b in batches)
    with without_trace(scene.adapted, train_mode=False, seed=0):
        for name, adapter in scene.adapted.adapters.items():
            weight = adapter.base.weight.requires_grad_(True)
            total = sum(
                torch.autograd.grad(loss(scene.adapted.model, b) * len(b["labels"]), weight)[0] for b in batches
            )
            kept = (total / rows) @ adapter.delta.tensor("A").detach().T
            best = np.linalg.svd((total / rows).numpy(), compute_uv=False)[: adapter.units.live]
            assert_close(kept.norm() ** 2, torch.tensor((best**2).sum()), rtol=1e-3, atol=1e-12, msg=name)


def test_what_is_cut_off_stands_still_and_is_closed_in_the_end(scene: Scene) -> None:
    allocator = scene.allocator(3, method="gradsvd", uniform_rank=2, batches=2)
    allocator.tick(0, 0.0)
    before = {name: adapter.delta.tensor("A").shape for name, adapter in scene.adapted.adapters.items()}
    assert any(shape[0] < RANK for shape in before.values())
    train(scene, 2)
    batch = {key: value for key, value in scene.batches(1)[0].items() if key != "labels"}
    out = evaluated(scene.adapted.model, batch)
    allocator.finish()
    assert_close(evaluated(scene.adapted.model, batch), out, rtol=1e-5, atol=1e-6)
    for adapter in scene.adapted.adapters.values():
        assert not adapter.units.is_cut
        assert not adapter.delta.B[:, adapter.units.live :].any()


def test_sites_may_have_the_scale_of_the_rank_they_are_given(scene: Scene, make: Make) -> None:
    allocator = scene.allocator(3, method="gradsvd", uniform_rank=2, batches=2, options={"scale": "own"})
    ranks = allocator.tick(0, 0.0).ranks
    assert len(set(ranks.values())) > 1
    scales = {name: adapter.spec.alpha / ranks[name] for name, adapter in scene.adapted.adapters.items()}
    assert {name: adapter.scale for name, adapter in scene.adapted.adapters.items()} == scales
    again = make("bert", targets=["q", "v", "up", "down"], rank=RANK)
    other = again.allocator(9, method="gradsvd", uniform_rank=2, batches=2, options={"scale": "own"})
    other.load_state_dict(allocator.state_dict())
    assert {name: adapter.scale for name, adapter in again.adapted.adapters.items()} == scales


def test_it_decides_once_also_after_a_restart(scene: Scene, make: Make) -> None:
    allocator = scene.allocator(3, method="gradsvd", uniform_rank=2, batches=2)
    first = allocator.tick(0, 0.0)
    state, tensors = allocator.state_dict(), {name: t.clone() for name, t in scene.adapted.tensors().items()}
    again = make("bert", targets=["q", "v", "up", "down"], rank=RANK)
    again.adapted.load_tensors(tensors)
    other = again.allocator(9, method="gradsvd", uniform_rank=2, batches=2)
    other.load_state_dict(state)
    assert again.adapted.ranks() == first.ranks == other.tick(5, 0.5).ranks
    assert all(torch.equal(t, again.adapted.tensors()[name]) for name, t in tensors.items())


def test_shortcuts_and_starts_that_take_no_factors_are_refused(make: Make) -> None:
    with pytest.raises(RecipeError, match=r"gradient of a weight[\s\S]*adapter.shortcuts=\[\]"):
        make("bert", targets=["q"], shortcuts=["res1"]).allocator(method="gradsvd")
    for section in ({"init": "pissa"}, {"method": "vera"}):
        with pytest.raises(RecipeError, match="start: init"):
            make("bert", targets=["q"], **section).allocator(method="gradsvd", enable=1.0, options={"start": "svd"})


def test_units_of_one_half_are_judged_by_the_other_after_whitening(scene: Scene) -> None:
    """By the gradients and diagonals of each half, taken layer by layer."""
    options = {"power": "1.0", "fit": "halves", "whiten": "diagonal", "per": "role", "floor": "1"}
    allocator = scene.allocator(3, method="gradsvd", uniform_rank=3, batches=4, options=options)
    tick = allocator.tick(0, 0.0)
    batches = drawn(scene, 3, 4)
    halves = [diagonals_and_gradients(scene, batches[place::2]) for place in (0, 1)]
    for name, score in tick.scores.items():
        first, second = (whitened(*half[name]) for half in halves)
        assert score == pytest.approx(cross_fitted(first, second, RANK).sum().item(), rel=1e-3)
    budget, cost_model = tick.budget, {site.name: site.in_features + site.out_features for site in scene.adapted.sites}
    by_role: dict[str, int] = {}
    for site in scene.adapted.sites:
        by_role[site.role] = by_role.get(site.role, 0) + tick.ranks[site.name] * cost_model[site.name]
    for role, spent in by_role.items():
        share = (
            budget * sum(cost_model[s.name] for s in scene.adapted.sites if s.role == role) / sum(cost_model.values())
        )
        dearest = max(cost_model[s.name] for s in scene.adapted.sites if s.role == role)
        assert share - dearest < spent <= share


def test_shuffled_ranks_are_those_of_the_role_in_another_order(scene: Scene, make: Make) -> None:
    def ranks(which: str, seed: int = 3) -> dict[str, list[int]]:
        fresh = make("bert", targets=["q", "v", "up", "down"], rank=RANK)
        options = {"floor": "0", "ranks": which}
        tick = fresh.allocator(seed, method="gradsvd", uniform_rank=2, batches=2, options=options).tick(0, 0.0)
        return {
            role: [tick.ranks[site.name] for site in fresh.adapted.sites if site.role == role]
            for role in ("q", "v", "up", "down")
        }

    moved = 0
    for seed in range(3, 8):  # a role has two sites here, so that half of all orders are as they were
        scored, shuffled = ranks("scored", seed), ranks("shuffled", seed)
        assert {role: sorted(of) for role, of in scored.items()} == {role: sorted(of) for role, of in shuffled.items()}
        moved += scored != shuffled
    assert moved


def keep(
    name: str,
    mask: torch.Tensor,
    seen: dict[str, list[torch.Tensor]],
    outputs: dict[str, torch.Tensor],
    module: Any,
    inputs: tuple[torch.Tensor, ...],
    output: torch.Tensor,
) -> None:
    """Take down what a site saw, and its output for the gradient to come."""
    seen[name].append(inputs[0].detach()[mask])
    output.retain_grad()
    outputs[name] = output


def diagonals_and_gradients(scene: Scene, batches: list[Any]) -> dict[str, tuple[torch.Tensor, Seen]]:
    """Site -> its weight's gradient averaged over the rows, and the diagonals by tokens that are no padding."""
    model = copy.deepcopy(scene.pretrained).requires_grad_(True)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in scene.adapted.adapters}
    slopes: dict[str, list[torch.Tensor]] = {name: [] for name in seen}
    rows = sum(len(batch["labels"]) for batch in batches)
    for batch in batches:
        outputs: dict[str, torch.Tensor] = {}
        hooks = [
            model.get_submodule(name).register_forward_hook(
                partial(keep, name, batch["attention_mask"].bool(), seen, outputs)
            )
            for name in seen
        ]
        (loss(model, batch) * len(batch["labels"])).backward()
        for name, output in outputs.items():
            slopes[name].append(output.grad.flatten(0, -2))
        for hook in hooks:
            hook.remove()
    return {
        name: (
            model.get_submodule(name).weight.grad / rows,
            Seen(
                torch.cat(seen[name]).double().square().mean(dim=0),
                torch.cat(slopes[name]).double().square().sum(dim=0),
            ),
        )
        for name in seen
    }


def test_directions_that_are_not_the_gradients_own_are_no_start(scene: Scene) -> None:
    with pytest.raises(RecipeError, match="units start in the gradient's own directions, and whiten diagonal"):
        scene.allocator(3, method="gradsvd", uniform_rank=2, options={"start": "svd", "whiten": "diagonal"})
    with pytest.raises(RecipeError, match="two halves need two batches"):
        scene.allocator(3, method="gradsvd", uniform_rank=2, batches=1, options={"fit": "halves"})


@pytest.mark.parametrize(("agree", "same"), [("0", False), ("1", True)])
@pytest.mark.parametrize("per", ["network", "role"])
def test_where_halves_do_not_agree_all_sites_get_the_same_rank(scene: Scene, agree: str, same: bool, per: str) -> None:
    """Within two sites of one rank, for what is left of the budget."""
    options = {"fit": "halves", "per": per, "agree": agree}
    tick = scene.allocator(3, method="gradsvd", uniform_rank=3, batches=4, options=options).tick(0, 0.0)
    assert (max(tick.ranks.values()) - min(tick.ranks.values()) <= 1) == same
    halves = [{}, {}]
    batches = drawn(scene, 3, 4)
    for half, some in zip(halves, (batches[::2], batches[1::2]), strict=True):
        half.update({name: np.linalg.norm(s) for name, s in spectra(scene, some).items()})
    roles: dict[str, list[str]] = {}
    for site in scene.adapted.sites:
        roles.setdefault(site.role if per == "role" else "", []).append(site.name)
    found = [
        spearmanr(*([half[name] for name in names] for half in halves)).statistic
        for names in roles.values()
        if len(names) > 2
    ]
    assert tick.measured == ({"agreement": pytest.approx(np.mean(found))} if found else {})


def test_agreement_is_of_halves(scene: Scene) -> None:
    with pytest.raises(RecipeError, match="fit: halves"):
        scene.allocator(3, method="gradsvd", uniform_rank=3, options={"agree": "0.7"})
