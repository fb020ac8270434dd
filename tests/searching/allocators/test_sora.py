"""SoRA: the soft threshold by its formula, on gates and on groups, and what reaches zero is closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.adapters.cases import disturb
from support.search.scene import Scene
from support.search.unit_contract import STEPS, TICKS, act, optimizer_for, summed, unit_contract
from torch.testing import assert_close

from lorakit.errors import RecipeError

Make = Callable[..., Scene]
THRESHOLD = 0.3

test_contract = unit_contract("sora", options={"threshold": "1e-5"})


def sora(scene: Scene, ticks: tuple[int, ...] = TICKS, enable: float = 1.0, **options: float) -> Any:
    given = {name: str(value) for name, value in {"threshold": THRESHOLD, **options}.items()}
    return scene.allocator(method="sora", total_steps=STEPS, ticks=ticks, enable=enable, options=given)


def soft(x: torch.Tensor, threshold: float) -> torch.Tensor:
    return x.sign() * (x.abs() - threshold).clamp_min(0)


def test_gates_are_soft_thresholded_after_every_step_whatever_the_rate(make: Make) -> None:
    scene = make("bert", targets=["q", "v"], shortcuts=["res1"], method="sora")
    allocator = sora(scene)
    disturb(scene.adapted)
    for step in (1, 2):
        before = {name: adapter.delta.g.detach().clone() for name, adapter in scene.adapted.adapters.items()}
        others = {name: adapter.delta.A.detach().clone() for name, adapter in scene.adapted.adapters.items()}
        allocator.after_step(step)
        for name, adapter in scene.adapted.adapters.items():
            assert_close(adapter.delta.g.detach(), soft(before[name], THRESHOLD))
            assert torch.equal(allocator.unit_scores()[name], adapter.delta.g.abs())
            assert torch.equal(adapter.delta.A, others[name])


def test_the_released_operator_zeroes_what_is_below_twice_the_threshold(make: Make) -> None:
    """Theirs by hand: soft-threshold by 0.3, then zero what is below 0.3 (TsinghuaC3I/SoRA)."""
    scene = make("bert", targets=["q"], method="sora")
    (first, second) = scene.adapted.adapters.values()
    with torch.no_grad():
        first.delta.g.copy_(torch.tensor([0.2, -0.55, 0.7]))
        second.delta.g.copy_(torch.tensor([-0.61, 0.59, -2.0]))
    sora(scene, operator="released").after_step(1)
    assert_close(first.delta.g.detach(), torch.tensor([0.0, 0.0, 0.4]))
    assert_close(second.delta.g.detach(), torch.tensor([-0.31, 0.0, -1.7]))


def test_the_threshold_alone_decides_where_no_budget_is_given(make: Make) -> None:
    scene = make("bert", targets=["q"], method="sora")
    allocator = scene.allocator(method="sora", total_steps=STEPS, ticks=TICKS, options={"threshold": "0.3"})
    assert allocator.context.budget.parameters == scene.adapted.adapter_parameters()


@pytest.mark.parametrize(("threshold", "said"), [(0.01, True), (1.0, False)])
def test_a_training_too_short_for_its_threshold_is_told(
    make: Make, threshold: float, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sora(make("bert", targets=["q"], method="sora"), threshold=threshold)
    assert ("near zero" in caplog.text) == said


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (3, 0.2), (STEPS, 0.5)])
def test_the_threshold_may_rise_linearly(make: Make, step: int, expected: float) -> None:
    scene = make("bert", targets=["q"], method="sora")
    assert sora(scene, threshold=0.1, final_threshold=0.5).threshold(step) == pytest.approx(expected)
    assert sora(scene, threshold=0.1).threshold(step) == 0.1


def lost(slices: torch.Tensor) -> torch.Tensor:
    """(n, units) -> the same with each column's norm less by the threshold."""
    return slices * (1 - THRESHOLD / slices.norm(dim=0)).clamp_min(0)


def core_by_hand(g: torch.Tensor) -> torch.Tensor:
    sizes = (g.square().sum(dim=0) + g.square().sum(dim=1)).sqrt()
    factors = (1 - THRESHOLD / sizes).clamp_min(0)
    return factors[:, None] * g * factors


GROUPS: dict[str, tuple[dict[str, Any], str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "columns of B": ({"method": "lora"}, "B", lost),
    "a gate that starts shut": ({"method": "adalora"}, "g", lambda g: soft(g, THRESHOLD)),
    "a vector": ({"delta": "vectors"}, "d", lambda d: soft(d, THRESHOLD)),
    "rows and columns of a core": ({"method": "flora"}, "G", core_by_hand),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_what_closes_a_unit_loses_the_threshold_of_its_norm(make: Make, kind: str) -> None:
    section, name, expected = GROUPS[kind]
    scene = make("bert", targets=["q", "up"], **section)
    allocator = sora(scene)
    disturb(scene.adapted, seed=2)
    before = [getattr(adapter.delta, name).detach().clone() for adapter in scene.adapted.adapters.values()]
    allocator.after_step(1)
    zeros = 0
    for values, adapter in zip(before, scene.adapted.adapters.values(), strict=True):
        now = getattr(adapter.delta, name).detach()
        assert_close(now, expected(values))
        zeros += int((now == 0).sum())
    assert zeros or kind in ("columns of B", "rows and columns of a core")


def test_a_subtracted_start_is_what_a_unit_is_pulled_back_to(make: Make) -> None:
    scene = make("bert", targets=["q"], method="pissa")
    allocator = sora(scene)
    disturb(scene.adapted)
    deltas = [adapter.delta for adapter in scene.adapted.adapters.values()]
    with torch.no_grad():
        deltas[0].live.A[1] = deltas[0].start.A[1] + 1e-3  # nearer than the threshold
        deltas[0].live.B[:, 1] = deltas[0].start.B[:, 1]
    offs = [(d.live.A - d.start.A).detach().clone() for d in deltas], [(d.live.B - d.start.B).detach() for d in deltas]
    allocator.after_step(1)
    for delta, a, b in zip(deltas, *offs, strict=True):
        factors = (1 - THRESHOLD / (a.square().sum(dim=1) + b.square().sum(dim=0)).sqrt()).clamp_min(0)
        assert_close((delta.live.A - delta.start.A).detach(), factors[:, None] * a, rtol=1e-4, atol=1e-6)
        assert_close((delta.live.B - delta.start.B).detach(), factors * b, rtol=1e-4, atol=1e-6)
    assert torch.equal(deltas[0].live.A[1], deltas[0].start.A[1])


def test_what_reached_zero_is_closed_at_a_tick_and_one_step_can_bring_it_back(make: Make) -> None:
    scene = make("bert", targets=["q"], method="sora")
    allocator = sora(scene)
    first, second = scene.adapted.adapters.values()
    with torch.no_grad():
        first.delta.g.copy_(torch.tensor([0.2, -1.0, 0.1]))
        second.delta.g.copy_(torch.tensor([0.5, 0.6, -0.7]))
    allocator.after_step(2)
    assert allocator.tick(2, 0.0).ranks == {first.site.name: 1, second.site.name: 3}
    with torch.no_grad():  # what the optimiser would do to closed gates
        first.delta.g += torch.tensor([0.1, 0.0, -0.8])
    allocator.after_step(3)
    assert first.delta.g.tolist() == [0.0, pytest.approx(-0.4), 0.0]
    tick = allocator.tick(4, 0.0)
    assert first.units.mask.tolist() == [False, True, True]
    assert tick.parameters < tick.budget


def test_units_that_were_never_open_are_not_closed_for_being_zero(make: Make) -> None:
    scene = make("bert", targets=["q"], method="lora")
    allocator = sora(scene, threshold=1e9)
    act(scene, allocator, optimizer_for(scene), range(STEPS))
    assert all(adapter.units.mask.all() and not adapter.delta.B.any() for adapter in scene.adapted.adapters.values())


def test_at_the_end_what_is_zero_goes(make: Make) -> None:
    scene = make("bert", targets=["q", "v"], method="sora")
    allocator = sora(scene, ticks=(0,), threshold=0.1)
    act(scene, allocator, optimizer_for(scene), range(STEPS))
    assert all(adapter.units.mask.all() for adapter in scene.adapted.adapters.values())
    zero = {name: adapter.delta.g == 0 for name, adapter in scene.adapted.adapters.items()}
    allocator.finish()
    assert any(closed.any() for closed in zero.values())
    assert {name: (~adapter.units.mask).tolist() for name, adapter in scene.adapted.adapters.items()} == {
        name: closed.tolist() for name, closed in zero.items()
    }


@pytest.mark.parametrize(("method", "size"), [("sora", lambda d: d.g.abs()), ("lora", lambda d: d.B.norm(dim=0))])
def test_the_penalty_is_on_the_mean_size_for_each_row(make: Make, method: str, size: Any) -> None:
    scene = make("bert", targets=["q", "up"], shortcuts=["res1"], method=method)
    allocator = sora(scene, penalty=0.7)
    batch = scene.batches()[0]
    allocator.around_loss(summed)(scene.adapted.model, batch).backward()  # where B is zero, its norm has no slope
    assert all(t.parameter.grad.isfinite().all() for t in scene.adapted.trained() if t.parameter.grad is not None)
    disturb(scene.adapted)
    added = allocator.around_loss(summed)(scene.adapted.model, batch) - summed(scene.adapted.model, batch)
    sizes = torch.cat([size(adapter.delta) for adapter in scene.adapted.adapters.values()])
    assert_close(added, len(batch["labels"]) * 0.7 * sizes.mean(), rtol=1e-3, atol=1e-4)
    assert sora(scene).around_loss(summed) is summed


def test_a_gate_that_does_not_train_is_refused(make: Make) -> None:
    scene = make("bert", targets=["q"], method="sora", trainable="A+B")
    with pytest.raises(RecipeError, match=r"pulls g of .* towards zero, and it does not train") as caught:
        sora(scene)
    assert caught.value.problems[0].key == "adapter.trainable"
