"""The gradients of one optimiser step: those of the mean loss over all its rows, on all processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lorakit.tasks.batching import IDLE, Batch
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
    if training.sharded:
        average_gradients(training.parameters)
    return loss


def forward_backward(training: Training, step_batch: StepBatch, batch: Batch) -> torch.Tensor:
    """A batch's part of the step's loss; its gradients are added to those that are there."""
    summed: Any = training.loss(training.model, batch) * (IDLE not in batch)
    training.accelerator.backward(summed * (training.accelerator.num_processes / step_batch.rows))
    part: torch.Tensor = summed.detach() / step_batch.rows
    return part


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """The mean of each gradient over all processes, in one exchange for each dtype, as DistributedDataParallel computes it.

    Where only some processes have one, the others' count as zeros; where none has, there is none.
    """
    kinds: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        kinds.setdefault(parameter.dtype, []).append(parameter)
    for dtype, group in kinds.items():
        pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
        there = torch.tensor([p.grad is not None for p in group], dtype=dtype, device=group[0].device)
        flat = torch.cat([*(piece.flatten() for piece in pieces), there]) / torch.distributed.get_world_size()
        torch.distributed.all_reduce(flat)
        *means, found = flat.split([*(p.numel() for p in group), len(group)])
        for parameter, mean, some in zip(group, means, found.tolist(), strict=True):
            parameter.grad = mean.view_as(parameter) if some else None
