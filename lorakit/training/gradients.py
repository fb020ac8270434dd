"""The gradients of one optimiser step: those of the mean loss over all its rows, on all processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lorakit.tasks.batching import Batch
from lorakit.training.loader import StepBatch

if TYPE_CHECKING:
    from lorakit.training.training import Training

Compute = Callable[[Batch], torch.Tensor]
"""batch -> its part of the step's loss, whose gradients are then in the parameters."""


def directly(compute: Compute, batch: Batch) -> torch.Tensor:
    """``compute(batch)``."""
    return compute(batch)


def step_gradients(
    training: Training, step_batch: StepBatch, passes: Callable[[Compute, Batch], torch.Tensor] = directly
) -> torch.Tensor:
    """Forward and backward of each of the step's batches; its loss, this process's part. ``passes`` is how a batch is computed."""
    accelerator = training.accelerator
    loss = torch.zeros((), device=accelerator.device)
    last = len(step_batch.batches) - 1
    for place, batch in enumerate(step_batch.batches):
        with accelerator.no_sync(training.model) if place < last else nullcontext():
            loss += passes(partial(forward_backward, training, step_batch), batch)
    return loss


def forward_backward(training: Training, step_batch: StepBatch, batch: Batch) -> torch.Tensor:
    """A batch's part of the step's loss; its gradients are added to those that are there."""
    summed: Any = training.loss(training.model, batch) * step_batch.share
    training.accelerator.backward(summed * (training.accelerator.num_processes / step_batch.rows))
    part: torch.Tensor = summed.detach() / step_batch.rows
    return part
