"""Diff pruning's penalty and its mask: by formula, through a checkpoint, and in a whole training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import Bench
from torch.testing import assert_close

from lorakit.adapters.deltas.sparse import FOR_GOOD
from lorakit.errors import RecipeError
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.loop import train
from lorakit.training.optim import base_rate, make_optimizer
from lorakit.training.training import Training
from lorakit.training.updates.diff_pruning import DiffPruning

RECIPE = ("adapter.method=diff_pruning", "adapter.targets=[q,down]", "adapter.dropout=0", "training.lr=5e-5")
KEEP = 0.02


def prepared(
    bench: Bench, folder: Path, *, method: str = "diff_pruning", **options: float
) -> tuple[Training, DiffPruning]:
    """A training with the update as its only one, and the update."""
    settings = ", ".join(f"{name}: {value}" for name, value in {"keep": KEEP, **options}.items())
    more = () if method == "diff_pruning" else (f"adapter.method={method}", "adapter.updates=[diff_pruning]")
    training = bench.prepare(folder, *RECIPE, f"adapter.update_options={{{settings}}}", *more)
    return training, next(hook for hook in training.hooks if isinstance(hook, DiffPruning))


def move(update: DiffPruning) -> None:
    """Random changes and gates, as if it had trained."""
    generator = torch.Generator().manual_seed(2)
    for _, delta in update.gated:
        with torch.no_grad():
            delta.w.normal_(generator=generator)
            delta.gate.normal_(std=2.0, generator=generator)


def test_every_gate_costs_its_chance_of_being_open_for_each_row(bench: Bench, tmp_path: Path) -> None:
    training, update = prepared(bench, tmp_path, penalty=0.01)
    move(update)
    rows = 5
    loss = update.around_loss(lambda model, batch: torch.tensor(3.0))
    # l = -r, so that log(-l/r) is 0 and P(z != 0) is the sigmoid of the logit
    expected = 3.0 + 0.01 * rows * sum(
        float((1 / (1 + (-delta.gate.detach()).exp())).sum()) for _, delta in update.gated
    )
    summed = loss(training.model, {"labels": torch.zeros(rows)})
    assert summed.item() == pytest.approx(expected, rel=1e-5)
    summed.backward()
    assert all((delta.gate.grad > 0).all() for _, delta in update.gated)

    only = training.adapted.sites[0].name
    training.adapted.switch([only])
    gate = training.adapted.adapters[only].delta.gate.detach()
    alone = loss(training.model, {"labels": torch.zeros(rows)}).item()
    assert alone == pytest.approx(3.0 + 0.01 * rows * float(gate.sigmoid().sum()), rel=1e-5)
    update.prune()
    assert loss(training.model, {"labels": torch.zeros(rows)}).item() == 3.0


def test_the_largest_changes_of_all_sites_together_stay(bench: Bench, tmp_path: Path) -> None:
    _, update = prepared(bench, tmp_path)
    move(update)
    before = torch.cat([delta.dense().detach().flatten() for _, delta in update.gated])
    update.prune()
    after = torch.cat([delta.dense().detach().flatten() for _, delta in update.gated])
    number = round(KEEP * len(before))
    threshold = sorted(before.abs().tolist())[-number]
    assert int((after != 0).sum()) == number
    assert torch.equal(after, torch.where(before.abs() >= threshold, before, 0.0))
    counts = [int((delta.dense() != 0).sum()) for _, delta in update.gated]
    assert len(set(counts)) > 1  # not the same share of each


class Watch(Hook):
    """Records, after each step, how many weights differ."""

    def __init__(self, update: DiffPruning):
        self.update = update
        self.changed: list[int] = []

    def after_step(self, state: TrainState) -> None:
        self.changed.append(sum(int((delta.dense() != 0).sum()) for _, delta in self.update.gated))


def test_in_training_the_mask_comes_on_time_and_stays(bench: Bench, tmp_path: Path) -> None:
    training, update = prepared(bench, tmp_path, prune_at=0.4)
    watch = Watch(update)
    training.hooks = [*training.hooks, watch]
    seen: dict[str, Any] = {}

    class Early(Hook):
        def after_step(self, state: TrainState) -> None:
            if update.pruned and not seen:
                seen.update({site.site.name: (delta.gate.clone(), delta.w.clone()) for site, delta in update.gated})

    training.hooks = [*training.hooks, Early()]
    train(training)
    total = training.schedule.total_steps
    weights = sum(delta.w.numel() for _, delta in update.gated)
    phase = -(-total * 4 // 10)  # 0.4 of the steps, rounded up
    assert watch.changed[0] == 0  # warm-up: a step of length zero
    assert all(number > 0.9 * weights for number in watch.changed[1 : phase - 1]), watch.changed
    assert watch.changed[phase - 1 :] == [round(KEEP * weights)] * (total - phase + 1)
    for adapter, delta in update.gated:
        gate, w = seen[adapter.site.name]
        assert torch.equal(delta.gate, gate)
        assert torch.equal(delta.w != 0, gate > 0)
        assert set(delta.gate.unique().tolist()) <= {FOR_GOOD, -FOR_GOOD}
        moved = delta.w != w
        assert torch.equal(moved, gate > 0)  # what was kept trains on


def test_gates_learn_faster_and_never_decay(bench: Bench, tmp_path: Path) -> None:
    training, update = prepared(bench, tmp_path)
    groups = make_optimizer(training.adapted, training.recipe.training, base_rate(training.recipe)).param_groups
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    for _, delta in update.gated:
        assert settings[id(delta.w)] == (5e-5, 0.01)
        assert settings[id(delta.gate)] == (pytest.approx(0.1), 0.0)


def test_an_adapter_without_gates_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="shuts the gates of delta 'sparse'"):
        prepared(bench, tmp_path, method="lora")


def test_a_kept_share_of_one_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    _, update = prepared(bench, tmp_path, keep=1.0)
    move(update)
    before = [delta.dense().detach() for _, delta in update.gated]
    update.prune()
    for (_, delta), expected in zip(update.gated, before, strict=True):
        assert_close(delta.dense().detach(), expected, rtol=0, atol=0)
