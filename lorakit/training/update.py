"""What goes on during training beside the optimiser's steps: a hook that knows the model, and may change the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from lorakit.adapters.attach import AdaptedModel
from lorakit.adapters.delta import Option
from lorakit.recipe.schema import Recipe
from lorakit.tasks.batching import Batch
from lorakit.training.hooks import Hook
from lorakit.training.objective import Objective
from lorakit.training.schedule import Schedule

SummedLoss = Callable[[nn.Module, Batch], torch.Tensor]
"""(model, batch) -> the loss summed over the batch's rows."""


@dataclass(frozen=True)
class UpdateContext:
    """What an update may use.

    draw: number -> that many batches of training rows, from the update's own stream; generator: that stream; options: the recipe's
    ``adapter.update_options`` that are this update's, as their types; optimizer: for its state.
    """

    adapted: AdaptedModel
    recipe: Recipe
    schedule: Schedule
    objective: Objective
    optimizer: torch.optim.Optimizer
    draw: Callable[[int], list[Batch]]
    generator: torch.Generator
    options: Mapping[str, Any]


class Update(Hook):
    """A training update; override the moments of ``Hook`` it acts at. Its state goes into checkpoints.

    name: what recipes call it; summary: a line; source: paper and section; options: its settings.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = {}

    def __init__(self, context: UpdateContext):
        self.context = context
        self.settings = {name: context.options.get(name, option.default) for name, option in self.options.items()}

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss to train on, given the one so far; itself by default."""
        return loss
