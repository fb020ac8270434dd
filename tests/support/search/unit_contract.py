"""What every allocator owes that gives and takes single rank units.

An allocator's own test is ``test_contract = unit_contract("adalora")`` and what is special. Each check takes one that has acted in a
training of a tiny model, on adapters of one kind, with a shortcut and a head that trains beside them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
import torch
from support.adapters.cases import evaluated
from support.adapters.contract import named
from support.search.scene import Scene, loss
from support.thinned import crossed
from torch import nn
from torch.testing import assert_close

from lorakit.adapters.adapted_model import HEAD
from lorakit.adapters.rank_units import axes_of
from lorakit.adapters.switching import ON
from lorakit.searching.allocator import allocators
from lorakit.tasks.batching import Batch

STEPS = 12
TICKS = (0, 2, 4, 5, 7, 9)
KINDS: dict[str, dict[str, Any]] = {
    "low_rank": {"method": "lora"},
    "diagonal": {"method": "adalora"},
    "gated": {"method": "sora"},
    "core": {"method": "flora"},
    "vectors": {"delta": "vectors"},
    "shared vectors": {"method": "vera", "rank": 6},
    "magnitude": {"method": "dora"},
    "anchored": {"method": "pissa"},
    "anchored diagonal": {"method": "adalora", "init": "pissa"},
    "frozen A": {"method": "lora_fa"},
}


def summed(model: nn.Module, batch: Batch) -> torch.Tensor:
    return loss(model, batch) * len(batch["labels"])


def optimizer_for(scene: Scene, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([tensor.parameter for tensor in scene.adapted.trained()], lr=3e-2, **settings)


def act(
    scene: Scene, allocator: Any, optimizer: torch.optim.Optimizer, steps: Sequence[int], between: Any = None
) -> list[dict[str, Any]]:
    """Train these steps as the loop does; the records of the ticks on the way. between: called after each tick."""
    objective, batches, ticks = allocator.around_loss(summed), scene.batches(4), []
    for step in steps:
        if step in allocator.context.ticks:
            ticks.append({**allocator.tick(step, 0.0).to_dict(), "seconds": None})
            if between is not None:
                between()
        allocator.before_forward(step)
        batch = batches[step % 4]
        (objective(scene.adapted.model, batch) / len(batch["labels"])).backward()
        allocator.after_backward(step)
        optimizer.step()
        allocator.after_step(step + 1)
        optimizer.zero_grad(set_to_none=True)
    return ticks


def unit_contract(
    method: str, kinds: Collection[str] = tuple(KINDS), options: dict[str, str] | None = None
) -> Callable[..., None]:
    """A test of every check on every kind of adapter in ``kinds``; in the default run of one check on every other, by turns."""
    pairs = crossed(kinds, CHECKS, turn=allocators.names().index(method), every=2)

    @pytest.mark.parametrize(("kind", "check"), pairs, ids=named)
    def test(check: Callable[[Callable[[], tuple[Scene, Any]]], None], kind: str, make: Callable[..., Scene]) -> None:
        def build(seed: int = 0) -> tuple[Scene, Any]:
            scene = make("bert", targets=["q", "v", "up"], shortcuts=["res1"], **KINDS[kind])
            allocator = scene.allocator(
                seed,
                method=method,
                total_steps=STEPS,
                ticks=TICKS,
                warmup=0.1,
                tail=0.25,
                enable=0.45,
                options=options or {},
            )
            return scene, allocator

        check(build)

    return test


# -- the checks --------------------------------------------------------------------------------------------------------


def check_budget(build: Any) -> None:
    """The limit falls to the budget and holds after every tick; what is counted is what is there; the scale does not move."""
    scene, allocator = build()
    adapted = scene.adapted
    scales = {name: adapter.scale for name, adapter in adapted.adapters.items()}

    def holds() -> None:
        assert adapted.adapter_parameters() == counted(scene)
        assert {name: adapter.scale for name, adapter in adapted.adapters.items()} == scales

    ticks = act(scene, allocator, optimizer_for(scene), range(STEPS), holds)
    budgets = [tick["budget"] for tick in ticks]
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[-1] == allocator.context.budget.parameters
    for tick in ticks:
        assert tick["parameters"] <= tick["budget"]
        assert all(isinstance(score, float) for score in tick["scores"].values())
    assert any(0 < rank < adapted.adapters[name].rank for tick in ticks for name, rank in tick["ranks"].items())
    assert adapted.adapter_parameters() == ticks[-1]["parameters"] > 0
    left = ticks[-1]["budget"] - ticks[-1]["parameters"]
    for adapter in adapted.adapters.values():
        assert (
            adapter.units.live == adapter.rank
            or adapter.parameters_at(adapter.units.live + 1) > adapter.parameters_at(adapter.units.live) + left
        )
    assert any(tensor.role == HEAD and tensor.parameter.requires_grad for tensor in adapted.trained())


def counted(scene: Scene) -> int:
    """Numbers in the live units of the tensors that train, one by one."""
    total = 0
    for adapter in scene.adapted.adapters.values():
        if adapter.state == ON and adapter.units.live:
            for name, tensor, _ in adapter.trained_tensors():
                inside = torch.ones(tensor.shape, dtype=torch.bool)
                for axis in axes_of(adapter.delta, name):
                    inside.index_fill_(axis, (~adapter.units.mask).nonzero().flatten(), False)
                total += int(inside.sum())
    return total


def check_closed(build: Any) -> None:
    """Closed units are out of the function and stand still: only the live ones are needed for the same logits, also merged."""
    scene, allocator = build()
    act(scene, allocator, optimizer_for(scene), range(STEPS))
    adapted, batch = scene.adapted, {k: v for k, v in scene.batches()[0].items() if k != "labels"}
    out = evaluated(adapted.model.eval(), batch)
    allocator.finish()
    assert torch.equal(evaluated(adapted.model, batch), out)
    assert all((adapter.state == ON) == bool(adapter.units.live) for adapter in adapted.adapters.values())
    with torch.no_grad():
        for adapter in adapted.adapters.values():
            for name, tensor, _ in adapter.tensors():
                tensor.copy_(adapter.units.whole(name, adapter.units.live_part(name, tensor)))
    assert_close(evaluated(adapted.model, batch), out, rtol=1e-4, atol=1e-5)
    adapted.switch([name for name in adapted.on if not adapted.adapters[name].site.is_shortcut])
    plain = copy.deepcopy(scene.pretrained).eval()
    with torch.no_grad():
        for name in adapted.on:
            weight = plain.get_submodule(name).weight
            weight.copy_(adapted.adapters[name].effective_weight(weight))
        for name in adapted.new_parts:
            plain.get_parameter(name).copy_(adapted.model.get_parameter(name))
    assert_close(evaluated(adapted.model, batch), evaluated(plain, batch), rtol=1e-4, atol=1e-5)


def check_repetition(build: Any) -> None:
    """The same seed gives the same twice, and so does a training that is stopped between two ticks, and at one."""
    histories, tensors = [], []
    for stop in (STEPS, STEPS, 6, 7):
        scene, allocator = build()
        optimizer = optimizer_for(scene)
        ticks = act(scene, allocator, optimizer, range(stop))
        if stop < STEPS:
            state = json.loads(json.dumps(allocator.state_dict(), allow_nan=False))
            values = {name: tensor.clone() for name, tensor in scene.adapted.tensors().items()}
            moments = copy.deepcopy(optimizer.state_dict())
            scene, allocator = build(seed=7)
            scene.adapted.load_tensors(values)
            allocator.load_state_dict(state)
            assert allocator.state_dict() == state
            optimizer = optimizer_for(scene)
            optimizer.load_state_dict(moments)
            ticks += act(scene, allocator, optimizer, range(stop, STEPS))
        allocator.finish()
        histories.append(ticks)
        tensors.append({name: tensor.clone() for name, tensor in scene.adapted.tensors().items()})
    for history, values in zip(histories[1:], tensors[1:], strict=True):
        assert history == histories[0]
        assert all(torch.equal(values[name], tensor) for name, tensor in tensors[0].items())


CHECKS = (check_budget, check_closed, check_repetition)
