"""Dynamic DoRA: shares and averages against the dense update, its regularisation, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.adapters.cases import disturb
from support.search.scene import Scene
from support.search.unit_contract import KINDS, STEPS, TICKS, summed, unit_contract
from torch.testing import assert_close

from lorakit.errors import RecipeError
from lorakit.searching.allocators.dynamic_dora import shares

Make = Callable[..., Scene]
SUMS = [kind for kind in KINDS if kind != "core"]

test_contract = unit_contract("dynamic_dora", kinds=SUMS)


def dynamic(scene: Scene, **options: float) -> Any:
    given = {name: str(value) for name, value in options.items()}
    return scene.allocator(method="dynamic_dora", total_steps=STEPS, ticks=TICKS, enable=0.5, options=given)


MELORA = {"method": "melora", "options": {"minis": "2"}}


@pytest.mark.parametrize("section", [*(KINDS[kind] for kind in SUMS), MELORA], ids=[*SUMS, "blocks"])
def test_a_share_is_what_dw_loses_without_the_unit(make: Make, section: dict[str, Any]) -> None:
    """Densely: close one unit, and see by how much the update is another."""
    scene = make("bert", targets=["q", "up"], **section)
    disturb(scene.adapted)
    for adapter in scene.adapted.adapters.values():
        found, whole = shares(adapter), adapter.delta.dense().detach()
        values = {name: tensor.detach().clone() for name, tensor, _ in adapter.tensors()}
        for unit in range(adapter.rank):
            adapter.units.keep(torch.arange(adapter.rank) != unit)
            without = adapter.delta.dense().detach()
            expected = (whole - without).norm() / whole.norm()
            assert_close(found[unit].float(), expected, rtol=1e-3, atol=1e-6)
            with torch.no_grad():
                for name, tensor, _ in adapter.tensors():
                    tensor.copy_(values[name])


def test_the_score_is_the_average_over_steps(make: Make) -> None:
    scene = make("bert", targets=["q", "v"], shortcuts=["res1"], method="trilora")
    allocator = dynamic(scene, smooth=0.8)
    allocator.after_step(1)
    assert not any(scores.any() for scores in allocator.unit_scores().values())  # dW is still zero
    expected = {name: torch.zeros(adapter.rank) for name, adapter in scene.adapted.adapters.items()}
    for step in (2, 3):
        disturb(scene.adapted, seed=step)
        allocator.after_step(step)
        for name, adapter in scene.adapted.adapters.items():
            b, c, a = adapter.delta.B.detach(), adapter.delta.g.detach(), adapter.delta.A.detach()
            parts = [c[i] * torch.outer(b[:, i], a[i]) for i in range(adapter.rank)]
            share = torch.stack([part.norm() for part in parts]) / torch.stack(parts).sum(dim=0).norm()
            expected[name] = 0.8 * expected[name] + 0.2 * share
    for name, scores in allocator.unit_scores().items():
        assert_close(scores.float(), expected[name], rtol=1e-4, atol=1e-6)


def test_the_units_with_the_largest_scores_of_all_sites_stay(make: Make) -> None:
    scene = make("bert", targets=["q", "v"], method="trilora")
    allocator = dynamic(scene)
    disturb(scene.adapted)
    allocator.after_step(TICKS[-1])
    scores = torch.cat(list(allocator.unit_scores().values()))
    allocator.tick(TICKS[-1], 0.0)
    live = torch.cat([adapter.units.mask for adapter in scene.adapted.adapters.values()])
    assert int(live.sum()) == len(live) // 2
    assert scores[live].min() > scores[~live].max()


def test_the_variance_term_is_for_each_row(make: Make) -> None:
    scene = make("bert", targets=["q", "up"], shortcuts=["res1"], method="trilora")
    allocator = dynamic(scene, variance=0.6)
    disturb(scene.adapted)
    variances = []
    for adapter in scene.adapted.adapters.values():
        a, b = adapter.delta.A.detach(), adapter.delta.B.detach()
        variances += [((a - a.mean(dim=1, keepdim=True)) ** 2).sum(dim=1) / (a.shape[1] - 1)]
        variances += [((b - b.mean(dim=0)) ** 2).sum(dim=0) / (b.shape[0] - 1)]
    batch = scene.batches()[0]
    added = allocator.around_loss(summed)(scene.adapted.model, batch) - summed(scene.adapted.model, batch)
    mean = torch.stack([each.mean() for each in variances]).mean()
    assert_close(added, len(batch["labels"]) * 0.6 * mean, rtol=1e-3, atol=1e-5)
    assert dynamic(scene, variance=0).around_loss(summed) is summed
    assert dynamic(make("bert", targets=["q"], method="vera", rank=6)).variances() == []


def test_the_way_down_is_slow_first(make: Make) -> None:
    """R0 - (R0 - R) t^3, from 72 units to 48 between steps 150 and 500 of 1,000 (MIkumikumi0116/DoRA)."""
    scene = make("bert", targets=["q", "k", "v"], method="trilora", rank=12)
    allocator = scene.allocator(
        method="dynamic_dora", total_steps=1000, ticks=range(0, 1000, 50), warmup=0.15, tail=0.5
    )
    unit = allocator.everything / 72
    assert allocator.context.budget.parameters == 48 * unit  # two thirds, where nothing is said
    left = {step: allocator.allowed(step) / unit for step in (0, 150, 200, 300, 400, 500, 900)}
    expected = {0: 72, 150: 72, 200: 71.930, 300: 70.111, 400: 63.254, 500: 48, 900: 48}
    assert left == pytest.approx(expected, abs=1.5 / unit + 1e-3)


def test_the_variance_term_ends_with_the_pruning(make: Make) -> None:
    scene = make("bert", targets=["q"], method="trilora")
    allocator = scene.allocator(method="dynamic_dora", total_steps=STEPS, ticks=range(STEPS), enable=0.5, tail=0.5)
    disturb(scene.adapted)
    batch = scene.batches()[0]
    penalised = allocator.around_loss(summed)
    added = []
    for step in range(STEPS):
        allocator.before_forward(step)
        added.append(float(penalised(scene.adapted.model, batch) - summed(scene.adapted.model, batch)) > 0)
    assert added == [step < STEPS // 2 for step in range(STEPS)]


@pytest.mark.parametrize("phases", [{}, {"warmup": 0.2, "tail": 0.4}])
def test_that_it_has_no_phases_is_told(make: Make, phases: dict[str, float], caplog: pytest.LogCaptureFixture) -> None:
    scene = make("bert", targets=["q"], method="trilora")
    scene.allocator(method="dynamic_dora", total_steps=STEPS, ticks=TICKS, **phases)
    assert ("search.warmup" in caplog.text) == (not phases)


@pytest.mark.parametrize("method", ["flora", "lora_xs", "bottleneck"])
def test_an_update_that_is_no_sum_over_units_is_refused(make: Make, method: str) -> None:
    section = {"method": "houlsby"} if method == "bottleneck" else {"method": method}
    with pytest.raises(RecipeError, match="is no sum of such parts") as caught:
        dynamic(make("bert", targets=["q", "v"], **section))
    (problem,) = caught.value.problems
    assert (problem.key, problem.valid) == ("search.method", "adalora or sora with this adapter")
    assert "trilora" in problem.hint
