"""Trial steps against a loop written by hand; and that nothing is left of them."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import SEARCH, Bench
from torch.nn import functional as F

from lorakit.training.training import Training
from lorakit.training.trial_steps import STEPS, Trials

STILL = ("adapter.dropout=0", "training.clip=0", "training.weight_decay=0")


def ready(bench: Bench, folder: Path, *overrides: str, **options: str) -> Training:
    """A training as it is before its first step, without dropout in the backbone."""
    backbone = bench.backbone(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    training = bench.prepare(folder, f"model.name={backbone}", *overrides, **options)
    training.model.train()
    return training


def by_hand(training: Training, lr: float, rows: list[int]) -> torch.Tensor:
    """The change (rows, outputs) of the logits after the first steps of Adam."""
    model = copy.deepcopy(training.adapted.model)
    encoded, optimizer = (
        training.loader.encoded,
        torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr),
    )
    probe = encoded.collate(rows)
    probe.pop("labels")

    def logits() -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = model(**probe).logits
        return found

    before = logits()
    for place in [*training.loader.batches(0), *training.loader.batches(1)][:STEPS]:
        batch = encoded.collate(place)
        labels = batch.pop("labels")
        out = model(**batch).logits
        if training.task.regression:
            loss = F.mse_loss(out[:, 0], labels)
        elif training.task.multi_label:
            loss = F.binary_cross_entropy_with_logits(out, labels.float())
        else:
            loss = F.cross_entropy(out, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits() - before


@pytest.mark.parametrize("kind", ["one", "number", "several"])
def test_the_change_is_that_of_the_first_steps_of_adam(bench: Bench, tmp_path: Path, kind: str):
    """Six steps are an epoch here, so the trial goes on in the second one; all 45 rows are the probe."""
    training = ready(bench, tmp_path, *STILL, kind=kind)
    moved = by_hand(training, 3e-3, list(range(45)))
    if kind == "one":
        moved = moved - moved.mean(dim=1, keepdim=True)
    wanted = float(moved.var(dim=0, correction=0).mean().sqrt())
    if kind == "number":
        assert training.loader.encoded.labels is not None
        wanted /= float(training.loader.encoded.labels.std())
    assert Trials(training).change(3e-3) == pytest.approx(wanted, rel=1e-3)


def test_accumulated_and_cut_batches_are_the_same_steps(bench: Bench, tmp_path: Path):
    whole = Trials(ready(bench, tmp_path / "a", *STILL, "training.batch_size=8")).change(3e-3)
    parts = ("training.batch_size=8", "training.micro_tokens=20")
    assert Trials(ready(bench, tmp_path / "b", *STILL, *parts)).change(3e-3) == pytest.approx(whole, rel=1e-3)


def test_a_head_with_a_rate_of_its_own_stands_still(bench: Bench, tmp_path: Path):
    rates = [f"training.head_lr={rate}" for rate in ("1e-5", "1")]
    one, other = (Trials(ready(bench, tmp_path / rate[-1], *STILL, rate)).change(3e-3) for rate in rates)
    assert one == other > 0


def everything(training: Training) -> list[torch.Tensor]:
    """Whatever a trial could leave a trace in, but modes and gradients."""
    model = training.adapted.model
    generators = [hook.allocator.context.generator for hook in training.hooks if hasattr(hook, "allocator")]
    streams = [torch.get_rng_state(), *(generator.get_state() for generator in generators)]
    other = torch.tensor([random.getstate()[1][-1], int(np.random.get_state()[2])])  # type: ignore[index, arg-type]
    return [copy.deepcopy(t) for t in [*model.state_dict().values(), *streams, other]]


WAYS = {
    "lora": (),
    "searched": (*SEARCH, "search.enable=0.5", "search.scoring=streaming"),
    "cut": ("search.method=eva", "search.enable=0.5"),
    "dora": ("adapter.method=dora",),
    "recomputed": ("training.gradient_checkpointing=true",),
    "sparse": ("adapter.method=sparse_adapter",),
    "hidden": ("adapter.method=hidden_key",),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_of_a_trial(bench: Bench, tmp_path: Path, way: str):
    training = bench.prepare(tmp_path, "adapter.dropout=0.2", *WAYS[way])
    training.model.train()
    training.call("on_train_begin")
    if training.schedule.ticks:
        training.call("on_tick")
    model = training.adapted.model
    before, modes = everything(training), [module.training for module in model.modules()]
    trained, states = [p.requires_grad for p in model.parameters()], training.adapted.states()
    hooks = [copy.deepcopy(hook.state_dict()) for hook in training.hooks]
    change = Trials(training).change(1e-2)
    assert change > 0
    for one, other in zip(everything(training), before, strict=True):
        assert torch.equal(one, other)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == trained
    assert training.adapted.states() == states
    assert [hook.state_dict() for hook in training.hooks] == hooks
    assert not training.optimizer.state
    assert all(parameter.grad is None for parameter in model.parameters())
    assert Trials(training).change(1e-2) == change


def test_a_broken_model_is_infinitely_far(bench: Bench, tmp_path: Path):
    training = ready(bench, tmp_path)
    assert Trials(training).change(1e30) == float("inf")
    assert 0 < Trials(training).change(1e-3) < 1


def test_closed_rank_units_stay_closed(bench: Bench, tmp_path: Path):
    """With all units but those of the budget closed, a trial moves as a model of that many does not: less than with all of them."""
    seen = []
    training = ready(bench, tmp_path, "search.method=eva", "search.enable=0.5", "adapter.targets=[q,v]")
    training.call("on_tick")
    trials = Trials(training)
    allocator = training.hooks[0].allocator  # type: ignore[attr-defined]
    held = [(tensor, axis, closed, values.clone()) for tensor, axis, closed, values in allocator.held]
    assert held
    plain = trials.logits

    def look() -> list[torch.Tensor]:
        seen.append([torch.equal(t.index_select(axis, closed), values) for t, axis, closed, values in held])
        return plain()

    trials.logits = look  # type: ignore[method-assign]
    trials.change(1e-2)
    assert len(seen) == 2
    assert all(all(same) for same in seen)
