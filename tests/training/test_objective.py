"""The loss is torch's."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from lorakit.training.objective import Objective


class Linear(nn.Module):
    """Stands in for a model: input_ids (rows, 3) as numbers -> logits."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer = nn.Linear(3, outputs)

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.layer(input_ids))


@pytest.mark.parametrize("rows", [1, 7])
def test_classes_have_torchs_cross_entropy(rows: int):
    model, objective = Linear(4), Objective(Accelerator(cpu=True), regression=False)
    batch = {"input_ids": torch.randn(rows, 3), "labels": torch.randint(4, (rows,))}
    expected = F.cross_entropy(model.layer(batch["input_ids"]), batch["labels"])
    torch.testing.assert_close(objective.mean(model, batch), expected)
    torch.testing.assert_close(objective.summed(model, batch), expected * rows)


@pytest.mark.parametrize("rows", [1, 7])
def test_numbers_have_torchs_squared_error(rows: int):
    """A single row too: (1, 1) logits against (1,) labels must not broadcast."""
    model, objective = Linear(1), Objective(Accelerator(cpu=True), regression=True)
    batch = {"input_ids": torch.randn(rows, 3), "labels": torch.randn(rows)}
    expected = F.mse_loss(model.layer(batch["input_ids"])[:, 0], batch["labels"])
    torch.testing.assert_close(objective.mean(model, batch), expected)
    torch.testing.assert_close(objective.summed(model, batch), expected * rows)


def test_logits_do_not_need_labels_and_are_float32():
    objective = Objective(Accelerator(cpu=True), regression=False)
    model = Linear(2).to(torch.bfloat16)
    logits = objective.logits(model, {"input_ids": torch.randn(2, 3).to(torch.bfloat16)})
    assert logits.dtype == torch.float32
