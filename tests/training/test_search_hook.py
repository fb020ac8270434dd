"""What joins a search to the loop: a lowered learning rate lasts for one step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from lorakit.training.hooks import TrainState
from lorakit.training.search_hook import SearchHook


def test_a_lowered_rate_is_that_of_one_step() -> None:
    """SGD at rate 1 on a gradient of 1: each step moves by the schedule's rate times the allocator's factor."""
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - 0.25 * step)
    allocator: Any = SimpleNamespace(steady=True, rate=[1.0, 0.5, 1.0].__getitem__)
    run: Any = None
    hook = SearchHook(allocator, run, writes=False, optimizer=optimizer)
    moved = []
    for step in range(3):
        weight.grad = torch.ones(())
        before = weight.item()
        hook.before_optimizer_step(TrainState(3, 3, step=step))
        optimizer.step()
        scheduler.step()
        moved.append(before - weight.item())
    assert moved == [1.0, 0.75 * 0.5, 0.5]
