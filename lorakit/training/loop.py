"""The training loop: batch, loss, backward, hooks, step, tick, evaluate, save."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import nn

from lorakit.artifacts.adapter_file import save_adapter
from lorakit.artifacts.fault_points import FaultPoint
from lorakit.errors import Interrupted, command_line
from lorakit.training.checkpoint import save_checkpoint
from lorakit.training.early_stopping import better, watch
from lorakit.training.evaluation import decide
from lorakit.training.gradients import step_gradients
from lorakit.training.interrupt import StopRequest, listening
from lorakit.training.loader import StepBatch
from lorakit.training.nonfinite import check_finite, skip_nonfinite
from lorakit.training.rate import find_rate
from lorakit.training.training import Training

BEST = "best"


@FaultPoint("training")
def train(training: Training) -> None:
    """Train from where ``training.state`` stands to the schedule's end, or to where it stops early.

    Raises Interrupted once a stop was asked for and saved.
    """
    state, schedule, accelerator = training.state, training.schedule, training.accelerator
    training.model.train()
    training.call("on_train_begin")
    begun = time.perf_counter() - state.seconds
    with listening() as stop:
        while state.step < schedule.total_steps and not state.stopped:
            epoch, done = divmod(state.step, schedule.steps_per_epoch)
            for step_batch in training.loader.step_batches(epoch, skip=done):
                if state.step in schedule.ticks:
                    check_finite(training)
                    training.call("on_tick")
                if training.rate_is_open:
                    find_rate(training)
                step(training, step_batch)
                state.seconds = time.perf_counter() - begun
                if state.step % training.recipe.run.log_every == 0 or state.step == schedule.total_steps:
                    log(training)
                if state.step in schedule.evaluations:
                    evaluate(training)
                ends = state.stopped or state.step == schedule.total_steps
                if ends:
                    log(training)
                if state.step % schedule.steps_per_epoch == 0:
                    training.call("on_epoch_end")
                if state.step in schedule.checkpoints or ends:
                    save(training)
                if ends:
                    break
                if asked_to_stop(accelerator, stop):
                    save(training)
                    leave(training)
    state.seconds = time.perf_counter() - begun
    training.call("on_train_end")


@FaultPoint("step")
def step(training: Training, step_batch: StepBatch) -> None:
    """One optimiser step over all of its batches: the loss is the mean over all its rows, on all processes."""
    accelerator, state = training.accelerator, training.state
    training.call("before_forward")
    loss = step_gradients(training, step_batch, training.passes)
    if accelerator.scaler is not None:
        accelerator.scaler.unscale_(training.optimizer)
    left_out = skip_nonfinite(training)
    training.call("after_backward")
    left_out = left_out or skip_nonfinite(training)  # hooks may have changed gradients
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


@FaultPoint("evaluation")
def evaluate(training: Training) -> None:
    """Score the validation splits; keep the adapter where it is the best so far (the first of equals); see whether to stop early."""
    state = training.state
    check_finite(training)
    training.call("before_evaluation")
    state.scores = training.evaluate()
    under_way = [hook for hook in training.hooks if not hook.settled(state)]
    settled, chosen = not under_way, training.recipe.training.select == BEST
    competes = not any(chosen or hook.reshapes for hook in under_way)
    if competes and (state.best is None or better(training.metric, state.scores, state.best["scores"])):
        state.best = {"step": state.step, "epoch": state.epoch, "scores": state.scores} | of_outputs(training)
        if training.accelerator.is_main_process:
            save_adapter(training.adapted, training.run.weights("best"))
    write(training, {"step": state.step, "epoch": state.epoch, "split": "validation", "scores": state.scores})
    if settled:
        watch(state, training.metric, training.recipe.training.early_stopping)
    training.call("on_evaluation")


def of_outputs(training: Training) -> dict[str, Any]:
    """What is kept of the best evaluation's outputs: their calibration, and where the run uses these weights the answers."""
    calibration, first = training.calibrate(), next(iter(training.outputs.values()))
    kept = {} if calibration is None else {"calibration": asdict(calibration)}
    chosen = training.recipe.training.select == BEST
    return kept | ({"decided": decide(training.task, first).tolist()} if chosen else {})


def write(training: Training, record: dict[str, Any]) -> None:
    """One record into metrics.jsonl, and its numbers to the trackers."""
    if training.accelerator.is_main_process:
        training.run.append("metrics", record)
    numbers = record.get("scores") or {name: record[name] for name in ("loss", "lr")}
    training.accelerator.log(numbers, step=training.state.step)


@FaultPoint("checkpoint")
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
        hint=command_line("train", training.run.path, "--resume"),
    )
