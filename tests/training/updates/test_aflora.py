"""AFLoRA's freezing: scores by hand, how many train at each step, and frozen for good."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import Bench, StopAt

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.errors import Interrupted, RecipeError
from lorakit.searching.unit_allocator import remaining
from lorakit.training import loop
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.updates.aflora import AFLoRA
from lorakit.workflow.doctor.run_folder import check_run

FREEZE = "adapter.updates=[aflora]"
BY_TENSORS = "cut: tensors, square: trained"


class Watch(Hook):
    """After every step: the frozen tensors, the scores, and every factor; before it, the gradients' sizes."""

    def __init__(self) -> None:
        self.update: AFLoRA
        self.frozen: list[list[str]] = []
        self.scores: list[dict[str, float]] = []
        self.factors: list[dict[str, torch.Tensor]] = []
        self.sizes: list[dict[str, np.ndarray]] = []

    def before_optimizer_step(self, state: TrainState) -> None:
        gradients = {name: t.parameter.grad for name, t in self.update.tensors.items()}
        self.sizes.append({name: g.abs().double().numpy() for name, g in gradients.items() if g is not None})

    def after_step(self, state: TrainState) -> None:
        self.frozen.append(list(self.update.frozen))
        self.scores.append(self.update.scores())
        self.factors.append({name: t.parameter.detach().clone() for name, t in self.update.tensors.items()})


def watched(bench: Bench, folder: Path, options: str, *overrides: str) -> tuple[Any, Watch]:
    watch = Watch()
    training = bench.prepare(folder, FREEZE, f"adapter.update_options={{{options}}}", *overrides, hooks=[watch])
    watch.update = training.hooks[0]  # type: ignore[assignment]
    training.model.train()
    for epoch in range(training.schedule.total_steps // training.schedule.steps_per_epoch):
        for step_batch in training.loader.step_batches(epoch):
            loop.step(training, step_batch)
    return training, watch


def test_scores_by_hand(bench: Bench, tmp_path: Path):
    """Windows of two steps: I and U of the mean |g|, and the mean of their product."""
    _, watch = watched(bench, tmp_path, "final: 1, window: 2, b1: 0.7, b2: 0.4, square: trained")
    assert len(watch.sizes) == 12
    for name, first in watch.sizes[0].items():
        sensitivity, uncertainty = np.zeros_like(first), np.zeros_like(first)
        for window in range(6):
            g = (watch.sizes[2 * window][name] + watch.sizes[2 * window + 1][name]) / 2
            sensitivity = 0.7 * sensitivity + 0.3 * g
            uncertainty = 0.4 * uncertainty + 0.6 * np.abs(g - sensitivity)
            found = watch.scores[2 * window + 1][name]
            assert found == pytest.approx((sensitivity * uncertainty).mean(), rel=1e-4)
        assert found > 0  # in the first window A has no gradient yet
    assert watch.frozen[-1] == []


def test_as_many_train_as_the_schedule_says_and_the_lowest_stop(bench: Bench, tmp_path: Path):
    training, watch = watched(
        bench, tmp_path, f"final: 0.25, window: 1, begin: 0.25, settle: 0.25, {BY_TENSORS}", "training.epochs=2"
    )
    tensors = watch.update.tensors
    assert (len(tensors), training.schedule.total_steps) == (8, 12)
    for step in range(1, 13):
        assert len(watch.frozen[step - 1]) == 8 - math.ceil(8 * remaining(step, 3, 9, 0.25))
    assert len(watch.frozen[2]) == 0
    assert len(watch.frozen[-1]) == 6
    for step in range(1, 12):
        new = set(watch.frozen[step]) - set(watch.frozen[step - 1])
        for name in watch.frozen[step - 1]:  # for good, and as they are
            assert name in watch.frozen[step]
            assert name not in watch.scores[step]
            assert torch.equal(watch.factors[step][name], watch.factors[step - 1][name])
            assert not tensors[name].parameter.requires_grad
        for name in set(tensors) - set(watch.frozen[step]):
            assert not torch.equal(watch.factors[step][name], watch.factors[step - 1][name])
        if new:
            assert len(watch.update.live) >= 2
            assert not new & set(watch.frozen[step - 1])


def test_the_lowest_scores_go_first(bench: Bench, tmp_path: Path):
    """Those that stop at a step are, by the scores that stood just before they did, below all that go on."""
    training = bench.prepare(tmp_path, FREEZE, f"adapter.update_options={{final: 0.5, window: 1, {BY_TENSORS}}}")
    (update,) = training.hooks
    assert isinstance(update, AFLoRA)
    for number, name in enumerate(reversed(update.tensors)):
        update.sensitivity[name].fill_(number + 1.0)
        update.uncertainty[name].fill_(1.0)
        update.window[name].fill_(number + 1.0)
    update.after_step(TrainState(total_steps=12, steps_per_epoch=6, step=12))
    assert update.frozen == list(reversed(update.tensors))[:4]


def test_frozen_tensors_stay_frozen_through_switching_and_resuming(bench: Bench, tmp_path: Path):
    overrides = (FREEZE, f"adapter.update_options={{final: 0.25, window: 1, begin: 0.1, settle: 0.5, {BY_TENSORS}}}")
    with pytest.raises(Interrupted):
        bench.train(*overrides, run_dir=tmp_path / "run", hooks=[StopAt(7)])
    state = read_json(tmp_path / "run" / "checkpoints" / "step-7" / "state.json")["hooks"]["aflora"]
    assert len(state["frozen"]) == 6
    training = bench.prepare(tmp_path / "other", *overrides)
    training.hooks[0].load_state_dict(state)
    training.adapted.switch([])
    training.adapted.switch(training.adapted.adapters)
    trains = {t.name: t.parameter.requires_grad for t in training.adapted.trained() if t.site}
    assert {name for name, on in trains.items() if not on} == set(state["frozen"])
    assert sum(trains.values()) == 2


def test_the_quantile_is_of_the_entries_that_still_train(bench: Bench, tmp_path: Path):
    """By hand: two windows at share 1/2, each freezes what is below the median of the entries of the others (zeyuliu1037/AFLoRA)."""
    training = bench.prepare(
        tmp_path, FREEZE, "adapter.update_options={final: 0.5, window: 1, square: trained}", "training.epochs=2"
    )
    (update,) = training.hooks
    assert isinstance(update, AFLoRA)
    assert update.settings["cut"] == "entries"
    names = list(update.tensors)
    for number, name in enumerate(names, start=1):
        for held in (update.sensitivity, update.uncertainty, update.window):
            held[name].fill_(1.0)
        update.uncertainty[name].fill_(float(number))
        update.sensitivity[name].flatten()[0] = 1e6  # one large entry, which moves the mean and not the median
    held = {name: (update.sensitivity[name] * update.uncertainty[name]).double().numpy() for name in names}
    expected: list[str] = []
    for _ in range(2):
        entries = np.sort(np.concatenate([held[name].ravel() for name in names if name not in expected]))
        bound = entries[len(entries) // 2 - 1]
        assert update.low_by_entries(0.5) == [n for n in names if n not in expected and held[n].mean() < bound]
        expected += update.low_by_entries(0.5)
        for name in update.low_by_entries(0.5):
            update.freeze(name)
    assert update.low_by_entries(1.0) == []
    assert update.low_by_entries(0.0) == list(update.live)


def test_factors_of_square_layers_never_train(bench: Bench, tmp_path: Path):
    training = bench.prepare(
        tmp_path, "adapter.method=aflora", "adapter.targets=[q, up]", "adapter.rank=2", "adapter.alpha=2"
    )
    trains = {t.name: t.parameter.requires_grad for t in training.adapted.trained() if t.role in ("A", "B") and t.site}
    square = {name for name, a in training.adapted.adapters.items() if a.site.in_features == a.site.out_features}
    assert square
    assert trains == {name: name.rpartition(".")[0] not in square for name in trains}
    assert any(trains.values())


def test_a_plain_lora_on_square_layers_alone_is_refused(bench: Bench, tmp_path: Path):
    with pytest.raises(RecipeError, match="there is nothing else") as caught:
        bench.prepare(tmp_path, FREEZE, "adapter.update_options={final: 0.5}", "adapter.targets=[q]")
    assert caught.value.problems[0].hint == "square: trained"


def test_what_never_trains_is_not_counted(bench: Bench):
    """Two layers: vectors alone of q, which is 32 x 32; factors too of up, 32 to 48."""
    settings = ("adapter.method=aflora", "adapter.targets=[q, up]", "adapter.rank=2", "training.max_steps=1")
    wanted = 2 * ((2 + 32) + (2 * (32 + 48) + 2 + 48))
    run = bench.train(*settings, name="counted")
    assert run.adapter_parameters == lorakit.plan(bench.load(*settings)).adapter_parameters == wanted
    assert {check.verdict for check in check_run(run.run_dir)} <= {"ok", "skipped"}
