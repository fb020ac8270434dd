"""What goes through the sites, against sums over tokens from plain hooks on the never adapted model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from support.adapters.cases import disturb
from support.search.scene import Scene, loss
from torch.testing import assert_close

from lorakit.adapters.gradient_checkpointing import recompute_in_eval_mode, recompute_layers
from lorakit.searching.site_moments import SiteMoments

Make = Callable[..., Scene]
WINDOW = 2


def passed(scene: Scene, steps: range, ticks: list[int]) -> SiteMoments:
    """After backward passes over a batch a step."""
    moments = SiteMoments(scene.adapted, ticks, WINDOW)
    batches = scene.batches(4)
    for step in steps:
        moments.before_forward(step)
        loss(scene.adapted.model, batches[step]).backward()
        moments.after_backward(step)
    return moments


def keep(kept: dict[str, Any], name: str, module: object, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
    output.retain_grad()
    kept[name] = args[0], output


@pytest.mark.parametrize("recomputed", [False, True])
def test_means_of_real_tokens_and_sums_of_gradients(make: Make, recomputed: bool) -> None:
    scene = make("bert", targets=["q", "up"])
    disturb(scene.adapted)
    expected: dict[str, list[torch.Tensor]] = {}
    for batch in scene.batches(4)[1:3]:  # the two steps before the tick
        model = copy.deepcopy(scene.adapted.model)
        kept: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name in scene.adapted.adapters:
            model.get_submodule(name).register_forward_hook(partial(keep, kept, name))
        loss(model, batch).backward()
        real = batch["attention_mask"].bool()
        for name, (x, output) in kept.items():
            expected.setdefault(name, []).append(x[real].detach())
            expected.setdefault(name + "/g", []).append(output.grad.flatten(0, 1))  # type: ignore[union-attr]
    if recomputed:
        recompute_layers(scene.adapted)
        recompute_in_eval_mode(scene.adapted.model)
    seen = passed(scene, range(3), [3]).take()
    for name in scene.adapted.adapters:
        inputs, gradients = torch.cat(expected[name]), torch.cat(expected[name + "/g"])
        assert_close(seen[name].inputs.float(), inputs.square().mean(dim=0), rtol=1e-4, atol=1e-7)
        assert_close(seen[name].gradients.float(), gradients.square().sum(dim=0), rtol=1e-4, atol=1e-9)


def test_nothing_hangs_on_the_modules_but_before_a_tick(make: Make) -> None:
    scene = make("bert", targets=["q"])

    def hooks() -> int:
        return sum(
            len(module._forward_hooks) + len(module._forward_pre_hooks) for module in scene.adapted.model.modules()
        )

    before, moments = hooks(), SiteMoments(scene.adapted, [3], WINDOW)
    for step, heard in enumerate([False, True, True, False]):
        moments.before_forward(step)
        assert (hooks() > before) == heard
        moments.after_backward(step)
        assert hooks() == before


def test_shortcuts_are_seen_too_and_an_overflowed_step_is_not(make: Make) -> None:
    scene = make("bert", targets=["q"], shortcuts=["res1", "mid"])
    disturb(scene.adapted)
    moments = passed(scene, range(3), [3])
    sums = {name: total.clone() for name, total in moments.sums.items()}
    assert all(total[0] > 0 and total[1:].any() for total in sums.values())
    assert set(sums) == set(scene.adapted.adapters)
    moments.steps = {0}
    moments.before_forward(0)
    (loss(scene.adapted.model, scene.batches()[0]) * float("inf")).backward()
    moments.after_backward(0)
    assert all(torch.equal(moments.sums[name], total) for name, total in sums.items())
    again = SiteMoments(scene.adapted, [3], WINDOW)
    again.load_state_dict(moments.state_dict())
    assert all(torch.equal(again.sums[name], total) for name, total in sums.items())


def test_a_pass_that_counts_nothing_in_the_loss_is_not_counted(make: Make) -> None:
    """What a process without rows passes for the others' sake."""
    scene = make("bert", targets=["q"])
    disturb(scene.adapted)
    batches, found = scene.batches(2), []
    for idle in (False, True):
        moments = SiteMoments(scene.adapted, [1], WINDOW)
        moments.before_forward(0)
        loss(scene.adapted.model, batches[0]).backward()
        if idle:
            (0 * loss(scene.adapted.model, batches[1])).backward()
        moments.after_backward(0)
        found.append(moments.take())
    for name, seen in found[0].items():
        assert torch.equal(found[1][name].inputs, seen.inputs)
        assert torch.equal(found[1][name].gradients, seen.gradients)
