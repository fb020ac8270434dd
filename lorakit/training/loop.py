"""The training loop: batch, loss, backward, hooks, step, tick, evaluate, save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import save_adapter
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted
from lorakit.recipe.schema import Recipe
from lorakit.tasks.batching import Batch, SummedLoss
from lorakit.tasks.task import higher_is_better
from lorakit.training.checkpoint import save_checkpoint
from lorakit.training.graphs import Graphs
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.interrupt import StopRequest, listening
from lorakit.training.loader import StepBatch, TrainLoader
from lorakit.training.nonfinite import check_finite, skip_nonfinite
from lorakit.training.objective import Objective
from lorakit.training.schedule import Schedule


@dataclass
class Training:
    """All that one training consists of.

    model: ``adapted.model`` as Accelerate prepared it; loss: what is trained on, summed over a batch's rows: the task's, and what
    updates add; evaluate: scores of the validation splits; metric: the score that tells which evaluation is best; losses and norms:
    this process's loss and the gradient's norm of every step since the last log line.
    """

    recipe: Recipe
    run: Run
    adapted: AdaptedModel
    model: nn.Module
    accelerator: Accelerator
    objective: Objective
    loss: SummedLoss
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    schedule: Schedule
    loader: TrainLoader
    evaluate: Callable[[], dict[str, float]]
    metric: str
    state: TrainState
    hooks: Sequence[Hook] = ()
    graphs: Graphs | None = None
    losses: list[torch.Tensor] = field(default_factory=list)
    norms: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parameters = [tensor.parameter for tensor in self.adapted.trained()]

    def passes(self, compute: Callable[[Batch], torch.Tensor], batch: Batch) -> torch.Tensor:
        """``compute(batch)``, by a graph where the training has them."""
        return self.graphs.run(compute, batch) if self.graphs else compute(batch)

    def call(self, moment: str) -> None:
        """Every hook's method of this name."""
        for hook in self.hooks:
            getattr(hook, moment)(self.state)


def train(training: Training) -> None:
    """Train from where ``training.state`` stands to the schedule's end. Raises Interrupted once a stop was asked for and saved."""
    state, schedule, accelerator = training.state, training.schedule, training.accelerator
    training.model.train()
    training.call("on_train_begin")
    begun = time.perf_counter() - state.seconds
    with listening() as stop:
        while state.step < schedule.total_steps:
            epoch, done = divmod(state.step, schedule.steps_per_epoch)
            for step_batch in training.loader.step_batches(epoch, skip=done):
                if state.step in schedule.ticks:
                    check_finite(training)
                    training.call("on_tick")
                step(training, step_batch)
                state.seconds = time.perf_counter() - begun
                if state.step % training.recipe.run.log_every == 0 or state.step == schedule.total_steps:
                    log(training)
                if state.step in schedule.evaluations:
                    evaluate(training)
                if state.step % schedule.steps_per_epoch == 0:
                    training.call("on_epoch_end")
                if state.step in schedule.checkpoints:
                    save(training)
                if state.step == schedule.total_steps:
                    break
                if asked_to_stop(accelerator, stop):
                    save(training)
                    leave(training)
    state.seconds = time.perf_counter() - begun
    training.call("on_train_end")


def step(training: Training, step_batch: StepBatch) -> None:
    """One optimiser step over a window of batches: the loss is the mean over all its rows, on all processes."""
    accelerator, state = training.accelerator, training.state
    training.call("before_forward")
    loss = torch.zeros((), device=accelerator.device)
    last = len(step_batch.batches) - 1
    for place, batch in enumerate(step_batch.batches):
        with accelerator.no_sync(training.model) if place < last else nullcontext():
            loss += training.passes(partial(forward_backward, training, step_batch), batch)
    if accelerator.scaler is not None:
        accelerator.scaler.unscale_(training.optimizer)
    left_out = skip_nonfinite(training)
    training.call("after_backward")
    norm = nn.utils.clip_grad_norm_(training.parameters, training.recipe.training.clip or math.inf)
    training.call("before_optimizer_step")
    if accelerator.scaler is not None:  # which leaves out steps of its own, those whose loss was scaled too far
        accelerator.scaler.step(training.optimizer)
        accelerator.scaler.update()
        norm = torch.zeros_like(norm)
    elif not left_out:
        training.optimizer.step()
    if not left_out:
        training.losses.append(loss)
        training.norms.append(norm)
    training.scheduler.step()
    state.step += 1
    state.lr = float(training.scheduler.get_last_lr()[0])
    state.next_tick = training.schedule.next_tick(state.step)
    training.call("after_step")
    training.optimizer.zero_grad(set_to_none=True)


def forward_backward(training: Training, step_batch: StepBatch, batch: Batch) -> torch.Tensor:
    """A batch's part of the step's loss; its gradients are added to those that are there."""
    summed: Any = training.loss(training.model, batch) * step_batch.share
    training.accelerator.backward(summed * (training.accelerator.num_processes / step_batch.rows))
    part: torch.Tensor = summed.detach() / step_batch.rows
    return part


def log(training: Training) -> None:
    """Write the mean loss since the last line; no line where every step since then was left out."""
    state = training.state
    if not training.losses:
        return
    state.loss = check_finite(training)
    training.losses.clear()
    training.norms.clear()
    record = {"step": state.step, "epoch": state.epoch, "loss": state.loss, "lr": state.lr}
    write(training, record)
    training.call("on_log")


def evaluate(training: Training) -> None:
    """Score the validation splits; keep the adapter where it is the best so far (the first of equals)."""
    state = training.state
    check_finite(training)
    state.scores = training.evaluate()
    if state.best is None or better(training.metric, state.scores, state.best["scores"]):
        state.best = {"step": state.step, "epoch": state.epoch, "scores": state.scores}
        if training.accelerator.is_main_process:
            save_adapter(training.adapted, training.run.weights("best"))
    write(training, {"step": state.step, "epoch": state.epoch, "split": "validation", "scores": state.scores})
    training.call("on_evaluation")


def better(metric: str, scores: dict[str, float], best: dict[str, float]) -> bool:
    """Whether ``scores`` beat ``best``."""
    return (scores[metric] > best[metric]) == higher_is_better(metric) and scores[metric] != best[metric]


def write(training: Training, record: dict[str, Any]) -> None:
    """One record into metrics.jsonl, and its numbers to the trackers."""
    if training.accelerator.is_main_process:
        training.run.append("metrics", record)
    numbers = record.get("scores") or {name: record[name] for name in ("loss", "lr")}
    training.accelerator.log(numbers, step=training.state.step)


def save(training: Training) -> None:
    """Write a checkpoint, unless the training has diverged: then there is nothing to go on from."""
    check_finite(training)
    save_checkpoint(training, training.recipe.run.keep_checkpoints)


def asked_to_stop(accelerator: Accelerator, stop: StopRequest) -> bool:
    """Whether any process was asked to: then all of them stop after the same step."""
    if accelerator.num_processes == 1:
        return stop.made
    if stop.made:
        accelerator.set_trigger()
    return accelerator.check_trigger()


def leave(training: Training) -> NoReturn:
    """Stop, and tell how to go on."""
    raise Interrupted(
        f"stopped after step {training.state.step} of {training.schedule.total_steps}; nothing is lost",
        hint=f"lorakit train {training.run.path} --resume",
    )
