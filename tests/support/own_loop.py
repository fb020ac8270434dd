"""Models of somebody who has a loop of their own, and a few steps of it."""

from __future__ import annotations

import torch
from torch import nn

from lorakit.workflow.own_loop.adapted import Adapted

BATCH = {
    "input_ids": torch.randint(4, 40, (6, 9), generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.ones(6, 9, dtype=torch.long),
    "labels": torch.tensor([0, 1, 1, 0, 1, 0]),
}


class Net(nn.Module):
    """A model that nobody knows anything of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.out = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.other(torch.tanh(self.first(x)))))


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(**BATCH).logits
    return output


def some_steps(adapted: Adapted, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW(adapted.groups(lr=1e-2))
    for _ in range(steps):
        adapted.model(**BATCH).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
