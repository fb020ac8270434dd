"""The loss of the task, and the forward pass that every part of lorakit shares."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from lorakit.tasks.batching import IDLE, PARTS, ROW_SCALE, WINDOW_OF, Batch
from lorakit.training.losses import ClassLoss, LabelLoss

NO_INPUTS = ("labels", ROW_SCALE, WINDOW_OF, PARTS, IDLE)
"""What of a batch is not for the model."""


MEAN = "mean"


@dataclass(frozen=True)
class Objective:
    """The recipe's loss for classes, squared error for numbers, under the run's precision and on its device.

    What is trained on is what searches score sites by and what inits look at: all of them take the loss from here. ``loss`` is plain
    cross-entropy where nobody gives another; ``pooling`` makes one row's logits of those of its windows.
    """

    accelerator: Accelerator
    regression: bool
    loss: ClassLoss = field(default_factory=ClassLoss)
    pooling: str = MEAN

    @property
    def multi_label(self) -> bool:
        """Whether a row has several labels, each a question of its own."""
        return isinstance(self.loss, LabelLoss)

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """(rows, labels) in float32, for a batch from ``Encoded.collate``."""
        inputs = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items() if name not in NO_INPUTS}
        with self.accelerator.autocast():
            logits: torch.Tensor = model(**inputs).logits
        return logits.float() if WINDOW_OF not in batch else pooled(logits.float(), batch[WINDOW_OF], self.pooling)

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


def pooled(logits: torch.Tensor, window_of: torch.Tensor, pooling: str) -> torch.Tensor:
    """The logits (rows, labels) of rows from those of their windows (windows, labels): the mean, or of each label the largest.

    window_of (windows,): the row that each is of, in order and none left out.
    """
    rows, place = int(window_of[-1]) + 1, window_of.to(logits.device)[:, None].expand_as(logits)
    how = "mean" if pooling == MEAN else "amax"
    return logits.new_zeros(rows, logits.shape[1]).scatter_reduce(0, place, logits, how, include_self=False)
