"""What a model computes for a batch of somebody's own loop: its logits, and the loss that the loop trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lorakit.errors import UsageError

OwnBatch = Mapping[str, torch.Tensor]
"""Name -> tensor (rows, ...): what the model takes by these names, and ``labels``."""
OwnLoss = Callable[[nn.Module, OwnBatch], torch.Tensor]
"""(model, batch) -> the mean loss of the batch's rows, a tensor with one entry."""
LABELS = "labels"


def models_own_loss(model: nn.Module, batch: OwnBatch) -> torch.Tensor:
    """The loss that the model returns for a batch with labels, as those of transformers do. UsageError where it returns none."""
    what = f"{type(model).__name__} gives no loss for a batch of {', '.join(batch)}"
    try:
        loss = getattr(model(**batch), "loss", None)
    except TypeError as error:
        raise UsageError(f"{what}: {error}", hint="loss=FUNCTION of (model, batch)") from error
    if not isinstance(loss, torch.Tensor):
        raise UsageError(
            what, hint="loss=FUNCTION of (model, batch), or batches with labels where the model is one of transformers'"
        )
    return loss


@dataclass(frozen=True)
class Passes:
    """Forward passes on batches wherever they are; loss: what the loop trains on; autocast: the dtype of its products, where it has one."""

    loss: OwnLoss = models_own_loss
    autocast: torch.dtype | None = None

    def mean(self, model: nn.Module, batch: OwnBatch) -> torch.Tensor:
        """The loss averaged over the batch's rows."""
        there = on_device(model, batch)
        with self.precision(model):
            return self.loss(model, there)

    def summed(self, model: nn.Module, batch: OwnBatch) -> torch.Tensor:
        """The loss summed over the batch's rows."""
        return self.mean(model, batch) * rows_of(batch)

    def logits(self, model: nn.Module, batch: OwnBatch) -> torch.Tensor:
        """(rows, labels) in float32: the output's ``logits``, or the output itself."""
        inputs = {name: tensor for name, tensor in on_device(model, batch).items() if name != LABELS}
        with self.precision(model):
            output = model(**inputs)
        logits: torch.Tensor = getattr(output, "logits", output)
        return logits.float()

    def precision(self, model: nn.Module) -> Any:
        """The loop's autocast, where it has one."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(next(model.parameters()).device.type, self.autocast)


def on_device(model: nn.Module, batch: OwnBatch) -> dict[str, torch.Tensor]:
    """The batch where the model is. UsageError for what is no mapping of tensors."""
    if not isinstance(batch, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in batch.values()):
        what = f"a batch is a mapping from names to tensors, and this is a {type(batch).__name__}"
        if isinstance(batch, Mapping):
            what += f" with other things: {', '.join(n for n, t in batch.items() if not isinstance(t, torch.Tensor))}"
        raise UsageError(what, hint="collate=FUNCTION that makes one")
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def rows_of(batch: OwnBatch) -> int:
    """How many rows a batch has."""
    return len(batch[LABELS] if LABELS in batch else next(iter(batch.values())))
