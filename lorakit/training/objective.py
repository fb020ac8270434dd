"""The loss of the task, and the forward pass that every part of lorakit shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from lorakit.tasks.batching import Batch


@dataclass(frozen=True)
class Objective:
    """Cross-entropy for classes, squared error for numbers, under the run's precision and on its device."""

    accelerator: Accelerator
    regression: bool

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """(rows, labels) in float32, for a batch from ``Encoded.collate``."""
        inputs = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items() if name != "labels"}
        with self.accelerator.autocast():
            logits: torch.Tensor = model(**inputs).logits
        return logits.float()

    def summed(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss summed over the batch's rows."""
        logits, labels = self.logits(model, batch), batch["labels"].to(self.accelerator.device)
        if self.regression:
            return F.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")
        return F.cross_entropy(logits, labels, reduction="sum")

    def mean(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss averaged over the batch's rows."""
        return self.summed(model, batch) / len(batch["labels"])
