"""Forward and backward as one CUDA graph: on a GPU a small step is mostly spent on starting its kernels one by one.

A graph is taken of each shape of batch, and replayed for all later ones: the same kernels on the same weights, started by one call.
What a graph cannot know is where Python would take another way. So graphs are forgotten at a tick that changes what is on, trains, or
where it lies; watched sites and the first ``EAGER`` batches of a shape are computed without one; and what changes the function from
step to step is refused (``Hook.steady``).
Clipping, hooks and the optimiser's step stay outside. Where a graph cannot be taken after all, the training goes on without.
Source: the CUDA graphs chapter of PyTorch's documentation, whole-network capture.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.switching import WATCHED
from lorakit.backbone.positions import position_limit
from lorakit.backbone.readout import PAIR
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AUTO, Recipe
from lorakit.tasks.batching import Batch, Encoded
from lorakit.training.hooks import Hook, TrainState

logger = logging.getLogger(__name__)

LENGTHS = 16
"""Batches are padded to multiples of this many tokens, so that there are few shapes."""
EAGER = 2
"""Batches of a shape before its graph is taken: lazy initialisations are over then, and rare shapes need no graph."""
Compute = Callable[[Batch], torch.Tensor]
"""batch -> its part of the step's loss, whose gradients are then in the parameters."""


@dataclass(frozen=True)
class Captured:
    """A graph, the tensors it reads its batch from, and those it writes the loss and the gradients to."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, torch.Tensor]
    loss: torch.Tensor
    gradients: list[tuple[nn.Parameter, torch.Tensor]]

    def replay(self, batch: Batch) -> torch.Tensor:
        """The batch's loss; its gradients become those of the parameters."""
        for name, tensor in batch.items():
            self.inputs[name].copy_(tensor, non_blocking=True)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.loss.clone()


class Graphs(Hook):
    """The graphs of a training, one for each shape of batch and choice of sites."""

    def __init__(self, adapted: AdaptedModel):
        self.adapted = adapted
        self.parameters = [tensor.parameter for tensor in adapted.trained()]
        self.seen: Counter[Any] = Counter()
        self.held: dict[Any, Captured] = {}
        self.before = self.structure()
        self.failed = False

    @cached_property
    def pool(self) -> Any:
        """The memory that all graphs share."""
        return torch.cuda.graph_pool_handle()

    def on_tick(self, state: TrainState) -> None:
        """Forget all, where the structure is another now."""
        if (now := self.structure()) != self.before:
            self.seen.clear()
            self.held.clear()
            self.before = now

    def structure(self) -> list[Any]:
        """What the path through the code, and the addresses on it, can depend on: states, scales, cuts, and every parameter's place."""
        adapters = [(adapter.state, adapter.scale, adapter.delta.cut_to) for adapter in self.adapted.adapters.values()]
        return [*adapters, *((p.data_ptr(), p.requires_grad) for p in self.adapted.model.parameters())]

    def run(self, compute: Compute, batch: Batch) -> torch.Tensor:
        """``compute(batch)``, by the graph of its shape where there is one. No gradients may be pending."""
        states = tuple(self.adapted.states().values())
        key = (states, *((name, tensor.shape) for name, tensor in batch.items()))
        if key in self.held:
            return self.held[key].replay(batch)
        self.seen[key] += 1
        if self.failed or WATCHED in states or self.seen[key] <= EAGER:
            return compute(batch)
        try:
            self.held[key] = self.capture(compute, batch)
        except RuntimeError as error:  # for want of memory, or a kernel that waits for the CPU
            self.give_up(error)
            return compute(batch)
        return self.held[key].replay(batch)

    def give_up(self, error: RuntimeError) -> None:
        """Compute every step from here on, and say why; what a capture that ended early left behind is dropped."""
        self.failed = True
        self.held.clear()
        for parameter in self.parameters:
            parameter.grad = None
        reason = str(error).partition("\n")[0]
        logger.warning("no CUDA graph can be taken of a step (%s): steps are slower, and the same", reason)

    def capture(self, compute: Compute, batch: Batch) -> Captured:
        """Record what ``compute`` does with batches of this shape; nothing is computed yet."""
        device = self.parameters[0].device
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            loss = compute(inputs)
        gradients = [(parameter, parameter.grad) for parameter in self.parameters if parameter.grad is not None]
        return Captured(graph, inputs, loss, gradients)


def against_padding(model: Any, rows: Encoded) -> str:
    """Why these rows are not to be padded to a multiple of ``LENGTHS``; empty where they may be."""
    if rows.padding.equal:
        return "a model that takes padding for text"
    limit, longest = position_limit(model), rows.shape(np.arange(len(rows.offsets) - 1), LENGTHS)[1]
    if limit is not None and limit < longest:
        return f"a model with positions for {limit} tokens, and rows of {longest} when they are padded to a multiple of {LENGTHS}"
    return ""


def use_graphs(
    recipe: Recipe, accelerator: Accelerator, config: Any, changing: Sequence[Hook], *, unpadded: str = ""
) -> bool:
    """Whether steps are replayed: by ``auto`` wherever they can be.

    config: the model's, whose layers may be left out at random; changing: what may change the function from step to step; unpadded: why
    rows are not to be padded, if they are not (``against_padding``). Raises RecipeError for graphs that are asked for and cannot be.
    """
    wanted = recipe.training.cuda_graphs
    reasons = against_graphs(recipe, accelerator, config, changing, unpadded) if wanted else []
    if reasons and wanted != AUTO:
        raise RecipeError(
            f"CUDA graphs do not go together with {', '.join(reasons)}",
            key="training.cuda_graphs",
            valid="auto, or false",
        )
    return bool(wanted) and not reasons


def against_graphs(
    recipe: Recipe, accelerator: Accelerator, config: Any, changing: Sequence[Hook], unpadded: str
) -> list[str]:
    """Why steps cannot be replayed: the device, what a step consists of, what changes with every step."""
    training = recipe.training
    at_random = any(value for name, value in vars(config).items() if "layerdrop" in name)
    reasons = {
        f"this device ({accelerator.device.type} and not cuda)": accelerator.device.type != "cuda",
        "training.accumulate": training.accumulate > 1,
        "training.micro_tokens": training.micro_tokens is not None,
        "training.freeze_below": bool(training.freeze_below),
        "task.long=windows": recipe.task.long == "windows",
        "model.readout=pair": recipe.model.readout == PAIR,
        "training.gradient_checkpointing": training.gradient_checkpointing,
        "several processes": accelerator.num_processes > 1,
        "training.precision=fp16": accelerator.scaler is not None,
        "a model that leaves out layers at random": at_random,
        unpadded: bool(unpadded),
        "methods that change the function from step to step": not all(hook.steady for hook in changing),
    }
    return [reason for reason, holds in reasons.items() if holds]
