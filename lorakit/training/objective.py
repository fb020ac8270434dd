"""The loss of the task, and the forward pass that every part of lorakit shares."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from lorakit.tasks.batching import ROW_SCALE, Batch
from lorakit.training.losses import ClassLoss, LabelLoss

NO_INPUTS = ("labels", ROW_SCALE)
"""What of a batch is for the loss alone."""


@dataclass(frozen=True)
class Objective:
    """The recipe's loss for classes, squared error for numbers, under the run's precision and on its device.

    What is trained on is what searches score sites by and what inits look at: all of them take the loss from here. ``loss`` is plain
    cross-entropy where nobody gives another.
    """

    accelerator: Accelerator
    regression: bool
    loss: ClassLoss = field(default_factory=ClassLoss)

    @property
    def multi_label(self) -> bool:
        """Whether a row has several labels, each a question of its own."""
        return isinstance(self.loss, LabelLoss)

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """(rows, labels) in float32, for a batch from ``Encoded.collate``."""
        inputs = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items() if name not in NO_INPUTS}
        with self.accelerator.autocast():
            logits: torch.Tensor = model(**inputs).logits
        return logits.float()

    def summed(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss summed over the batch's rows."""
        logits, labels = self.logits(model, batch), batch["labels"].to(self.accelerator.device)
        if self.regression:
            return F.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")
        scale = batch.get(ROW_SCALE)
        return self.loss.summed(logits, labels, None if scale is None else scale.to(self.accelerator.device))

    def mean(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss averaged over the batch's rows."""
        return self.summed(model, batch) / len(batch["labels"])
