"""The loss that a recipe trains on, for its data: the same for the loop, for searches and for inits that look at data."""

from __future__ import annotations

from accelerate import Accelerator

from lorakit.training.losses import make_loss
from lorakit.training.objective import Objective
from lorakit.workflow.parts import Parts


def objective_of(parts: Parts, accelerator: Accelerator) -> Objective:
    """The recipe's loss on the accelerator's device; a number to predict has squared error."""
    loss = make_loss(parts.recipe.training, parts.class_weights, accelerator.device, multi_label=parts.task.multi_label)
    return Objective(accelerator, parts.task.regression, loss, parts.recipe.task.window_pooling)
