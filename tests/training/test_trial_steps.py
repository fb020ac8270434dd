"""Trial steps against a loop written by hand; and that nothing is left of them."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import SEARCH, Bench
from support.thinned import thinned
from torch.nn import functional as F

from lorakit.training.training import Training
from lorakit.training.trial_steps import STEPS, Look, Trials, evenly

STILL = ("adapter.dropout=0", "training.clip=0", "training.weight_decay=0")


def ready(bench: Bench, folder: Path, *overrides: str, **options: str) -> Training:
    """A training as it is before its first step, without dropout in the backbone."""
    backbone = bench.backbone(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    training = bench.prepare(folder, f"model.name={backbone}", *overrides, **options)
    training.model.train()
    return training


def logits_of(training: Training, model: torch.nn.Module, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of these rows."""
    batch = training.loader.encoded.collate(rows)
    labels = batch.pop("labels")
    return model(**batch).logits, labels


def loss_of(training: Training, model: torch.nn.Module, rows: list[int]) -> torch.Tensor:
    """The mean loss of these rows."""
    logits, labels = logits_of(training, model, rows)
    if training.task.regression:
        return F.mse_loss(logits[:, 0], labels)
    if training.task.multi_label:
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    return F.cross_entropy(logits, labels)


def least(training: Training, model: torch.nn.Module, rows: list[int]) -> float:
    """The least loss of these rows over offsets of their logits, by PyTorch's optimiser."""
    logits, labels = (tensor.detach().double() for tensor in logits_of(training, model, rows))
    offsets = torch.zeros(logits.shape[1], dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([offsets], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        z = logits + offsets
        if training.task.regression:
            found = F.mse_loss(z[:, 0], labels)
        elif training.task.multi_label:
            found = F.binary_cross_entropy_with_logits(z, labels, reduction="sum") / len(rows)
        else:
            found = F.cross_entropy(z, labels.long())
        found.backward()
        return found

    optimizer.step(loss)  # type: ignore[arg-type]
    return loss().item()


def by_hand(training: Training, lr: float, rows: list[int]) -> float:
    """By what share the first steps of Adam bring the least loss of the rows down, the head standing still."""
    model = copy.deepcopy(training.adapted.model)
    sites = tuple(training.adapted.adapters)
    adapters = [p for name, p in model.named_parameters() if p.requires_grad and name.startswith(sites)]
    assert 0 < len(adapters) < sum(p.requires_grad for p in model.parameters())
    optimizer = torch.optim.Adam(adapters, lr)
    before = least(training, model, rows)
    for place in [batch for epoch in range(3) for batch in training.loader.batches(epoch)][:STEPS]:
        loss = loss_of(training, model, place)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (before - least(training, model, rows)) / before


@pytest.mark.parametrize("kind", thinned(["one", "number", "several"], 3))
def test_the_fall_is_that_of_the_first_steps_of_adam(bench: Bench, tmp_path: Path, kind: str):
    """Six steps are an epoch here, so the trial goes on in the next ones; all 45 rows are the probe."""
    training = ready(bench, tmp_path, *STILL, kind=kind)
    wanted = by_hand(training, 1e-2, list(range(45)))
    assert abs(wanted) > 1e-3
    assert Trials(training).fall(1e-2) == pytest.approx(wanted, rel=1e-3)


def test_rows_of_rare_classes_are_looked_at_first():
    labels = np.array([0, 0, 0, 0, 1, 0, 0, 2, 1, 0])
    rows = np.array([3, 0, 1, 9, 8, 2, 4, 5, 7, 6])
    assert evenly(rows, labels).tolist() == [3, 8, 7, 0, 4, 1, 9, 2, 5, 6]


def test_accumulated_and_cut_batches_are_the_same_steps(bench: Bench, tmp_path: Path):
    whole = Trials(ready(bench, tmp_path / "a", *STILL, "training.batch_size=8")).fall(3e-3)
    parts = ("training.batch_size=8", "training.micro_tokens=20")
    assert Trials(ready(bench, tmp_path / "b", *STILL, *parts)).fall(3e-3) == pytest.approx(whole, rel=1e-3)


def test_the_head_stands_still_whatever_its_rate(bench: Bench, tmp_path: Path):
    rates = ["training.head_lr=null", "training.head_lr=1"]
    one, other = (Trials(ready(bench, tmp_path / rate[-1], *STILL, rate)).fall(3e-3) for rate in rates)
    assert one == other != 0


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
    "frozen": ("training.freeze_below=1",),
    "squeezed": ("search.method=squeeze", "search.enable=0.5", "search.every=0.5"),
    "averaged": ("training.average=0.4",),
}


@pytest.mark.parametrize("way", thinned(WAYS, 2))
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
    fall = Trials(training).fall(1e-2)
    assert fall != 0
    for one, other in zip(everything(training), before, strict=True):
        assert torch.equal(one, other)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == trained
    assert training.adapted.states() == states
    assert [hook.state_dict() for hook in training.hooks] == hooks
    assert not training.optimizer.state
    assert all(parameter.grad is None for parameter in model.parameters())
    assert Trials(training).fall(1e-2) == fall


def test_a_broken_model_is_infinitely_bad(bench: Bench, tmp_path: Path):
    training = ready(bench, tmp_path)
    assert Trials(training).fall(1e30) == -float("inf")
    assert abs(Trials(training).fall(1e-3)) < 1


def test_closed_rank_units_stay_closed(bench: Bench, tmp_path: Path):
    """With all units but those of the budget closed, a trial moves as a model of that many does not: less than with all of them."""
    seen = []
    training = ready(bench, tmp_path, "search.method=eva", "search.enable=0.5", "adapter.targets=[q,v]")
    training.call("on_tick")
    trials = Trials(training)
    allocator = training.hooks[0].allocator  # type: ignore[attr-defined]
    held = [(tensor, axis, closed, values.clone()) for tensor, axis, closed, values in allocator.held]
    assert held
    plain = trials.look

    def look() -> Look | None:
        seen.append([torch.equal(t.index_select(axis, closed), values) for t, axis, closed, values in held])
        return plain()

    trials.look = look  # type: ignore[method-assign]
    trials.fall(1e-2)
    assert len(seen) == 2
    assert all(all(same) for same in seen)
