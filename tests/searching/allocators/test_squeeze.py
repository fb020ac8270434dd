"""Squeeze: the budget on the way down, units that are the best per parameter, and moments that stay those of the loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.adapters.cases import disturb, evaluated
from support.search.scene import Scene, loss
from support.search.unit_contract import STEPS, act, check_repetition, counted, optimizer_for
from support.thinned import thinned
from torch.testing import assert_close

from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocators.squeeze import Squeeze

Make = Callable[..., Scene]
CUTS = (3, 6, 8)
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "rslora": {"method": "rslora"},
    "lora_plus": {"method": "lora_plus"},
    "magnitude": {"method": "dora"},
    "dropout": {"method": "lora", "dropout": 0.2},
}


def squeeze(scene: Scene, seed: int = 0, **search: Any) -> Any:
    search = {"uniform_rank": 1, **search}
    return scene.allocator(seed, method="squeeze", total_steps=STEPS, ticks=CUTS, **search)


def scene_of(make: Make, **section: Any) -> Scene:
    return make("bert", targets=["q", "v", "up"], **{"rank": 3, "shortcuts": ["res1"], "shortcut_rank": 3, **section})


@pytest.mark.parametrize("kind", KINDS)
def test_it_lands_on_the_budget_with_the_function_of_the_live_units(make: Make, kind: str) -> None:
    scene = scene_of(make, **KINDS[kind])
    optimizer = optimizer_for(scene)
    allocator, adapted = squeeze(scene, optimizer=optimizer, enable=0.5, uniform_rank=None), scene.adapted
    scales = {name: adapter.scale for name, adapter in adapted.adapters.items()}
    ticks = act(scene, allocator, optimizer, range(STEPS))
    everything, final = allocator.everything, allocator.context.budget.parameters
    share = (final / everything) ** (1 / 3)
    assert [tick["budget"] for tick in ticks] == [int(everything * share), int(everything * share**2), final]
    cheapest = min(adapter.parameters_at(2) - adapter.parameters_at(1) for adapter in adapted.adapters.values())
    for tick in ticks:
        assert tick["budget"] - 3 * cheapest < tick["parameters"] <= tick["budget"]
        assert min(tick["ranks"].values()) >= 1
        assert 0 < tick["measured"]["score_kept"] <= 1
        assert tick["measured"]["logits_moved"] < tick["measured"]["logits_size"]
    assert len(set(ticks[-1]["ranks"].values())) > 1
    assert adapted.adapter_parameters() == ticks[-1]["parameters"] == counted(scene)
    assert {name: adapter.scale for name, adapter in adapted.adapters.items()} == scales
    batch = {name: tensor for name, tensor in scene.batches()[0].items() if name != "labels"}
    out = evaluated(adapted.model.eval(), batch)
    allocator.finish()
    assert_close(evaluated(adapted.model, batch), out, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for adapter in adapted.adapters.values():
            for name, tensor, _ in adapter.tensors():
                tensor.copy_(adapter.units.whole(name, adapter.units.live_part(name, tensor)))
    assert_close(evaluated(adapted.model, batch), out, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options", thinned([{"floor": "0", "basis": "weighted"}, {"ranks": "shuffled"}, {"ranks": "uniform"}], 3), ids=str
)
def test_it_repeats_and_resumes_before_at_and_between_cuts(make: Make, options: dict[str, str]) -> None:
    def build(seed: int = 0) -> tuple[Scene, Any]:
        scene = scene_of(make)
        return scene, squeeze(scene, seed, options=options, uniform_rank=2)

    check_repetition(build)


def test_taking_nothing_changes_nothing_but_the_basis(make: Make) -> None:
    """With a budget of everything a cut only rewrites: same logits, and Adam's mean is that of the new factors' gradients."""
    scene = scene_of(make)
    adapted = scene.adapted
    disturb(adapted)
    optimizer = optimizer_for(scene, betas=(0.0, 0.0))  # the moments are the last gradient and its square
    allocator = squeeze(scene, optimizer=optimizer, uniform_rank=3)
    optimizer.param_groups[0]["lr"] = 0.0
    batch = scene.batches()[0]
    tensors = [tensor for tensor in adapted.trained() if tensor.site is not None]

    def gradients() -> list[torch.Tensor]:
        adapted.model.zero_grad(set_to_none=True)
        loss(adapted.model, batch).backward()
        return [tensor.parameter.grad.clone() for tensor in tensors]  # type: ignore[union-attr]

    gradients()
    optimizer.step()
    before = [tensor.parameter.detach().clone() for tensor in tensors]
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    out = evaluated(adapted.model, inputs)
    tick = allocator.tick(CUTS[0], 0.0)
    assert tick.measured["score_kept"] == 1
    assert tick.measured["logits_moved"] < 1e-6
    assert_close(evaluated(adapted.model, inputs), out, rtol=1e-5, atol=1e-6)
    assert not any(torch.equal(tensor.parameter, value) for tensor, value in zip(tensors, before, strict=True))
    for tensor, gradient in zip(tensors, gradients(), strict=True):
        first, second = allocator.context.moments(tensor.parameter)
        assert_close(first, gradient, rtol=1e-3, atol=1e-7)
        assert (second >= 0).all()
    for adapter in adapted.adapters.values():
        gram = adapter.delta.A @ adapter.delta.A.T
        assert_close(gram, torch.diag(gram.diagonal()), rtol=0, atol=1e-5)
        assert_close(gram.diagonal(), (adapter.delta.B.T @ adapter.delta.B).diagonal(), rtol=1e-4, atol=1e-6)


def test_scores_are_the_formula(make: Make) -> None:
    """(s sigma)^2 (u'Gu)(v'Cv) from the dense update's singular vectors; the best per parameter stay."""
    scene = scene_of(make, shortcuts=[])
    disturb(scene.adapted)
    allocator = squeeze(scene, enable=0.5, uniform_rank=None)
    for step in range(CUTS[0]):
        allocator.before_forward(step)
        loss(scene.adapted.model, scene.batches()[step]).backward()
        allocator.after_backward(step)
    seen = copy.deepcopy(allocator.seen).take()
    worth = {}
    for name, adapter in scene.adapted.adapters.items():
        u, values, vt = torch.linalg.svd(adapter.scale * adapter.delta.dense().detach().double(), full_matrices=False)
        worth[name] = [
            float(values[i] ** 2 * (u[:, i] ** 2 @ seen[name].gradients) * (vt[i] ** 2 @ seen[name].inputs))
            for i in range(adapter.rank)
        ]
    tick = allocator.tick(CUTS[0], 0.0)
    assert tick.scores == pytest.approx({name: sum(values) for name, values in worth.items()}, rel=1e-4)
    sites = scene.adapted.adapters
    order = sorted(
        (
            (v / (sites[n].site.in_features + sites[n].site.out_features), n)
            for n, vs in worth.items()
            for v in sorted(vs)[:-1]
        ),
        reverse=True,
    )
    expected, left = dict.fromkeys(sites, 1), tick.budget - sum(adapter.parameters_at(1) for adapter in sites.values())
    for _, name in order:
        if (price := sites[name].parameters_at(1)) <= left:
            expected[name], left = expected[name] + 1, left - price
    assert tick.ranks == expected


def test_units_of_the_weighted_basis_share_no_score(make: Make) -> None:
    """The squared weighted entries of the whole update are the sum of its units' scores; those of the plain basis are not."""
    found = {}
    for basis in ("svd", "weighted"):
        scene = scene_of(make, shortcuts=[])
        disturb(scene.adapted)
        allocator = squeeze(scene, options={"basis": basis})
        for step in range(CUTS[0]):
            allocator.before_forward(step)
            loss(scene.adapted.model, scene.batches()[step]).backward()
            allocator.after_backward(step)
        seen = copy.deepcopy(allocator.seen).take()
        scores = allocator.unit_scores()
        for name, adapter in scene.adapted.adapters.items():
            dense = adapter.scale * adapter.delta.dense().detach().double()
            whole = (dense.square() * seen[name].gradients[:, None] * seen[name].inputs).sum()
            found[basis, name] = abs(float(scores[name].sum() / whole) - 1)
    names = list(scene.adapted.adapters)
    assert sum(found["weighted", name] for name in names) < 0.5 * sum(found["svd", name] for name in names)


def test_controls_have_the_same_ranks_elsewhere_or_the_same_everywhere(make: Make) -> None:
    found = {}
    for ranks in ("scored", "shuffled", "uniform"):
        scene = scene_of(make, shortcuts=[])
        allocator = squeeze(scene, options={"ranks": ranks}, uniform_rank=2)
        found[ranks] = act(scene, allocator, optimizer_for(scene), range(STEPS))
    assert {tuple(set(tick["ranks"].values())) for tick in found["uniform"]} == {(3,), (2,)}
    assert found["uniform"][-1]["ranks"] == dict.fromkeys(found["uniform"][-1]["ranks"], 2)
    first = [found[ranks][0]["ranks"] for ranks in ("scored", "shuffled")]
    assert first[0] != first[1]
    assert sorted(first[0].values()) == sorted(first[1].values())
    assert len({tick[-1]["budget"] for tick in found.values()}) == 1


def test_the_rate_comes_back_after_a_cut(make: Make) -> None:
    allocator = squeeze(scene_of(make), options={"rewarm": "0.17"})  # two steps of twelve
    assert [round(allocator.rate(step), 3) for step in range(9)] == [1, 1, 1, 0.333, 0.667, 1, 0.333, 0.667, 0.333]
    assert squeeze(scene_of(make), options={"rewarm": "0"}).rate(3) == 1


def test_when_cuts_come() -> None:
    assert Squeeze.own_ticks(SearchSection(method="squeeze"), 200) == [80, 110, 140]
    once = SearchSection(method="squeeze", options={"cuts": "1", "end": "0.5"})
    assert Squeeze.own_ticks(once, 10) == [5]


@pytest.mark.parametrize(
    ("search", "steps", "key"),
    [
        ({}, 3, "search.options"),
        ({"options": {"begin": "0.8"}}, 200, "search.options"),
        ({"options": {"cuts": "9"}}, 20, "search.options"),
        ({"warmup": 0.1}, 200, "search.warmup"),
        ({"tail": 0.1}, 200, "search.tail"),
    ],
)
def test_cuts_without_a_step_are_refused(search: dict[str, Any], steps: int, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Squeeze.own_ticks(SearchSection(method="squeeze", **search), steps)
    assert caught.value.problems[0].key == key


@pytest.mark.parametrize(
    ("section", "search", "match"),
    [
        ({"method": "pissa"}, {}, "starts from factors that are subtracted"),
        ({"method": "lora_fa"}, {}, "one of the two does not train"),
        ({"method": "adalora"}, {}, "is no plain product"),
        ({}, {"uniform_rank": None, "parameters": 100}, "needs rank 1 on all"),
        ({}, {"options": {"floor": "2"}}, "a floor of 2 units"),
        ({}, {"options": {"ranks": "random"}}, "ranks: random"),
    ],
)
def test_what_is_refused(make: Make, section: dict[str, Any], search: dict[str, Any], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        squeeze(scene_of(make, shortcuts=[], **section), **search)
