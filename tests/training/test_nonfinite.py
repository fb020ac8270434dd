"""A step whose loss or gradient is not finite: found, named, left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import SEARCH, Bench, records
from support.thinned import thinned

from lorakit.artifacts.files import read_json, read_jsonl
from lorakit.errors import RunError
from lorakit.training import loop
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.training import Training

SETTINGS = ("run.log_every=4", "training.lr=1e-3")  # epochs are 6 steps, two of them


class Poison(Hook):
    """Makes the loss of some steps (counted from 1) what it should not be, and keeps the batches and weights of every step."""

    def __init__(self, steps: set[int], value: float = float("nan")):
        self.steps, self.value = steps, value
        self.batches: list[torch.Tensor] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.moments: list[float] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = loop.step

        def step(training: Training, step_batch: loop.StepBatch) -> None:
            loss = training.loss
            self.batches.append(step_batch.batches[0]["input_ids"])
            if training.state.step + 1 in self.steps:
                training.loss = lambda model, batch: loss(model, batch) * self.value
            plain(training, step_batch)
            training.loss = loss
            self.weights.append({name: tensor.clone() for name, tensor in training.adapted.tensors().items()})
            entries: Any = training.optimizer.state_dict()["state"]
            self.moments.append(float(next(iter(entries.values()))["step"]))

        monkeypatch.setattr(loop, "step", step)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Poison]:
    def make(steps: set[int], value: float = float("nan")) -> Poison:
        poison = Poison(steps, value)
        poison.watch(monkeypatch)
        return poison

    return make


def rows_in(bench: Bench, batch: torch.Tensor, folder: Path) -> set[int]:
    """The training rows whose tokens are in the batch."""
    encoded = bench.prepare(folder).loader.encoded
    alone = {tuple(encoded.collate([row])["input_ids"][0].tolist()): row for row in range(len(encoded))}
    return {alone[tuple(row[row != 0].tolist())] for row in batch}


@pytest.mark.parametrize(("value", "told"), [(float("nan"), "the loss is nan"), (float("inf"), "the loss is inf")])
def test_the_step_its_rows_and_the_last_good_checkpoint_are_named(
    bench: Bench, tmp_path: Path, poisoned: Callable[..., Poison], value: float, told: str
):
    poison = poisoned({10}, value)
    with pytest.raises(RunError, match=f"{told} at step 10, training rows ") as caught:
        bench.train(*SETTINGS, run_dir=tmp_path / "run")
    what = caught.value.problems[0].what
    named = {int(row) for row in what.split("training rows ")[1].split(";")[0].split(", ")}
    assert named == rows_in(bench, poison.batches[9], tmp_path)
    assert "the last good checkpoint is step-6" in what
    assert caught.value.exit_code == 1
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-6"]


def test_a_gradient_that_is_not_finite_is_found_where_the_loss_is(bench: Bench, tmp_path: Path):
    class Infinite(Hook):
        def after_backward(self, state: TrainState) -> None:
            if state.step == 2:
                training.parameters[0].grad.fill_(float("inf"))  # type: ignore[union-attr]

    hooks = [Infinite()]
    training = bench.prepare(tmp_path / "run", *SETTINGS, hooks=hooks)
    with pytest.raises(RunError, match="the norm of the gradients is inf at step 3"):
        loop.train(training)


def test_a_search_does_not_choose_by_such_scores(bench: Bench, tmp_path: Path, poisoned: Callable[..., Poison]):
    """The step before a tick: found before the tick, though no line is due."""
    poisoned({3})
    with pytest.raises(RunError, match="at step 3,"):
        bench.train(*SEARCH, "search.every=0.5", "search.enable=0.4", "run.log_every=1000", run_dir=tmp_path / "run")
    assert [tick["step"] for tick in read_jsonl(tmp_path / "run" / "timeline.jsonl")] == [0]


def test_a_step_left_out_changes_nothing_but_the_count(bench: Bench, tmp_path: Path, poisoned: Callable[..., Poison]):
    poison = poisoned({4, 5})
    result = bench.train(*SETTINGS, "training.nonfinite=skip", run_dir=tmp_path / "run")
    for step in (4, 5):
        before, after = poison.weights[step - 2], poison.weights[step - 1]
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(poison.weights[4][name], poison.weights[5][name]) for name in poison.weights[4])
    assert poison.moments == [1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10]  # AdamW's own count
    assert result.skipped_steps == read_json(tmp_path / "run" / "summary.json")["skipped_steps"] == 2
    lines = [line for line in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [4, 8, 12]


def test_where_every_step_fails_leaving_out_ends(bench: Bench, poisoned: Callable[..., Poison]):
    poisoned(set(range(2, 100)))
    with pytest.raises(RunError, match="not finite in 10 steps one after the other at step 11"):
        bench.train(*SETTINGS, "training.nonfinite=skip")


def test_a_stopped_run_goes_on_without_the_step(bench: Bench, tmp_path: Path, poisoned: Callable[..., Poison]):
    """And ends as the one that left it out from the beginning."""
    poisoned({10})
    whole = bench.train(*SETTINGS, "training.nonfinite=skip")
    with pytest.raises(RunError) as caught:
        bench.train(*SETTINGS, run_dir=tmp_path / "run")
    assert "--resume training.nonfinite=skip" in caught.value.problems[0].hint
    bench.train(*SETTINGS, "training.nonfinite=skip", run_dir=tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == records(whole.run_dir)


@pytest.mark.parametrize("method", thinned(["adalora", "dylora", "sora"], 3))
def test_searches_over_rank_units_take_a_step_left_out(bench: Bench, poisoned: Callable[..., Poison], method: str):
    poisoned({3})
    adapter = {"adalora": "adalora", "dylora": "lora", "sora": "sora"}[method]
    search = (f"adapter.method={adapter}", f"search.method={method}", "search.enable=0.5", "training.nonfinite=skip")
    result = bench.train(*search, "search.every=0.5")
    assert result.skipped_steps == 1
    assert 0 < result.adapter_parameters <= result.budget
