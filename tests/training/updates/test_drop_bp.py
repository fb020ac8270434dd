"""DropBP: the forward pass is untouched, dropped branches get no gradient, and the others the right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom
from support.runs import Bench
from torch import nn
from torch.testing import assert_close

from lorakit.training.hooks import TrainState
from lorakit.training.updates.drop_bp import DropBP

ALL = ("adapter.updates=[drop_bp]", "adapter.targets=[all]", "adapter.dropout=0")
STATE = TrainState(total_steps=12, steps_per_epoch=6)


def dropping(bench: Bench, folder: Path, rate: float, **options: str) -> tuple[Any, DropBP, dict[str, torch.Tensor]]:
    training = bench.prepare(folder, *ALL, f"adapter.update_options={{rate: {rate}}}", **options)
    (update,) = training.hooks
    assert isinstance(update, DropBP)
    with torch.no_grad():
        for tensor in training.adapted.trained():
            tensor.parameter.add_(0.1 * torch.randn(tensor.parameter.shape, generator=torch.Generator().manual_seed(1)))
    return training, update, training.loader.encoded.collate(range(8))


def gradients(training: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """Of every trained tensor, in evaluation mode, and gone again afterwards."""
    training.adapted.model.zero_grad(set_to_none=True)
    training.loss(training.model, batch).backward()
    found = {t.name: t.parameter.grad for t in training.adapted.trained()}
    training.adapted.model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "opt_postnorm"])
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_forward_pass_is_the_same_bit_for_bit(bench: Bench, tmp_path: Path, family: str, rate: float):
    training, update, batch = dropping(bench, tmp_path, rate, family=family)
    plain = training.objective.logits(training.model, batch)
    update.on_train_begin(STATE)
    update.before_forward(STATE)
    assert update.dropped == (set(update.branches) if rate else set())
    assert len(update.branches) == 4  # two layers, attention and MLP
    assert torch.equal(training.objective.logits(training.model, batch), plain)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "opt_postnorm"])
def test_a_dropped_branch_has_no_gradient_and_the_rest_that_of_a_constant(bench: Bench, tmp_path: Path, family: str):
    """The reference: the same model with the branch's output replaced by the numbers it had."""
    training, update, batch = dropping(bench, tmp_path, 0.5, family=family)
    model = training.adapted.model
    update.on_train_begin(STATE)
    for dropped in ({update.branches[1]}, {update.branches[0], update.branches[3]}, set(update.branches)):
        kept: dict[str, torch.Tensor] = {}
        ends = {name: model.get_submodule(name) for name in dropped}
        recording = [module.register_forward_hook(keep(kept, name)) for name, module in ends.items()]
        with torch.no_grad():
            training.loss(training.model, batch)
        for handle in recording:
            handle.remove()
        replacing = [module.register_forward_hook(put(kept[name])) for name, module in ends.items()]
        expected = gradients(training, batch)
        for handle in replacing:
            handle.remove()

        update.dropped = dropped
        found = gradients(training, batch)
        update.before_optimizer_step(STATE)
        assert {name for name, g in found.items() if g is None} == {name for name, g in expected.items() if g is None}
        for name in dropped:
            assert found[f"{name}.A"] is None
            assert found[f"{name}.B"] is None
        for name, gradient in expected.items():
            if gradient is not None:
                assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)
        assert any(gradient is not None and gradient.any() for gradient in found.values())
    assert all(gradient is not None for gradient in gradients(training, batch).values())  # only within a step


def keep(kept: dict[str, torch.Tensor], name: str) -> Any:
    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        kept[name] = output.detach().clone()

    return hook


def put(value: torch.Tensor) -> Any:
    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return value

    return hook


def test_all_branches_are_dropped_alike(bench: Bench, tmp_path: Path):
    """Each in E max(k, 2) / 4 of the steps, with k of 4 drawn at 0.3 and topped up to 2."""
    share = sum(max(k, 2) * binom.pmf(k, 4, 0.3) for k in range(5)) / 4
    _, update, _ = dropping(bench, tmp_path, 0.3)
    counts = dict.fromkeys(update.branches, 0)
    for _ in range(1000):
        update.before_forward(STATE)
        for name in update.dropped:
            counts[name] += 1
    for count in counts.values():
        assert abs(count - 1000 * share) < 5 * (1000 * share * (1 - share)) ** 0.5
    assert len(set(counts.values())) > 1  # each its own draw


def test_a_dropped_branch_is_not_in_the_backward_graph(bench: Bench, tmp_path: Path):
    """So the backward pass does not compute it: the graph has fewer nodes, the fewer the more are dropped."""
    training, update, batch = dropping(bench, tmp_path, 0.5)
    update.on_train_begin(STATE)
    sizes = []
    for number in range(5):
        update.dropped = set(update.branches[4 - number :])
        sizes.append(nodes(training.loss(training.model, batch)))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[4] < 0.3 * sizes[0]


def nodes(loss: torch.Tensor) -> int:
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return len(seen)


def test_afterwards_the_model_is_as_it_was(bench: Bench, tmp_path: Path):
    training, update, batch = dropping(bench, tmp_path, 1.0)
    hooks = [dict(module._forward_hooks) for module in training.adapted.model.modules()]
    update.on_train_begin(STATE)
    assert [dict(module._forward_hooks) for module in training.adapted.model.modules()] != hooks
    update.on_train_end(STATE)
    assert [dict(module._forward_hooks) for module in training.adapted.model.modules()] == hooks
    update.before_forward(STATE)
    assert all(gradient is not None for gradient in gradients(training, batch).values())


@pytest.mark.parametrize(("rate", "least"), [(0.0, 0), (0.3, 2), (0.5, 2), (1.0, 4)])
def test_every_step_is_topped_up_to_the_rate(bench: Bench, tmp_path: Path, rate: float, least: int):
    """Of n = 4 branches at least ceil(rate n), and k > least of them as often as the binomial distribution says."""
    _, update, _ = dropping(bench, tmp_path, rate)
    numbers, which = [], []
    for _ in range(2000):
        update.before_forward(STATE)
        numbers.append(len(update.dropped))
        which.extend(update.dropped)
    expected = [binom.pmf(k, 4, rate) if k > least else 0.0 for k in range(5)]
    expected[least] = binom.cdf(least, 4, rate)
    found = np.bincount(numbers, minlength=5) / 2000
    assert found == pytest.approx(expected, abs=4 * 0.5 / 2000**0.5)
    assert len(set(which)) == (4 if rate else 0)
