"""Losses and gradients that are not finite numbers: the training stops and says where, or leaves the step out.

Steps are looked at together, before anything is logged, scored, evaluated or saved, so that a GPU is never waited for in
between. With ``training.nonfinite: skip`` the gradient's norm is looked at in every step: one that is not finite changes no weight
and no moment of the optimiser.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lorakit.artifacts.standing import all_checkpoints
from lorakit.errors import RunError, command_line

if TYPE_CHECKING:
    from lorakit.training.training import Training

SKIP = "skip"
IN_A_ROW = 10  # steps left out one after the other, after which the weights themselves must be what is wrong
SHOWN = 8  # rows that a message names


def skip_nonfinite(training: Training) -> bool:
    """Whether the step just computed is to be left out: then its gradients are zero. RunError after ``IN_A_ROW`` of them."""
    if training.recipe.training.nonfinite != SKIP or training.accelerator.scaler is not None:  # which does so itself
        return False
    gradients = [parameter.grad for parameter in training.parameters if parameter.grad is not None]
    if nn.utils.get_total_norm(gradients).isfinite():
        return False
    state = training.state
    state.skipped.append(state.step + 1)
    if state.skipped[-IN_A_ROW:] == list(range(state.step + 2 - IN_A_ROW, state.step + 2)):
        raise nonfinite_error(
            training, state.step + 1, f"gradients were not finite in {IN_A_ROW} steps one after the other"
        )
    for gradient in gradients:
        gradient.zero_()
    return True


def check_finite(training: Training) -> float:
    """The mean loss of the steps since the last log line, over all processes. RunError where one of them was not finite."""
    state, accelerator = training.state, training.accelerator
    if not training.losses:
        return 0.0
    pending: Any = accelerator.reduce(torch.stack([torch.stack(training.losses), torch.stack(training.norms)]))
    if not pending.isfinite().all():
        first = int((~pending.isfinite().all(dim=0)).nonzero()[0])
        loss, norm = pending[:, first].tolist()
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradients is {norm}"
        raise nonfinite_error(training, state.step - len(training.losses) + first + 1, what)
    return float(pending[0].mean())


def nonfinite_error(training: Training, step: int, what: str) -> RunError:
    """The error about optimiser step number ``step``: its rows, and the checkpoint that is good."""
    epoch, place = divmod(step - 1, training.schedule.steps_per_epoch)
    rows = training.loader.rows(epoch, place)
    named = ", ".join(str(row) for row in rows[:SHOWN]) + (f" and {len(rows) - SHOWN} more" if rows[SHOWN:] else "")
    named += "" if training.loader.chosen is None else ", or those set aside for updates"
    good = [path.name for path in all_checkpoints(training.run.checkpoints)][-1:]
    again = command_line("train", training.run.path, "--resume", "training.nonfinite=skip")
    return RunError(
        f"{what} at step {step}, training rows {named}; "
        + (f"the last good checkpoint is {good[0]}" if good else "there is no checkpoint yet"),
        where=str(training.run.path),
        hint="a lower training.lr, training.clip=1.0 or training.precision=fp32; "
        + (again if good else "training.nonfinite=skip")
        + " leaves such steps out",
    )
