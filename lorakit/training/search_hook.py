"""Joins an allocator to the loop: acts at every tick, keeps the diary, and checks at the end that it really acted."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from lorakit.artifacts.fault_points import FaultPoint
from lorakit.errors import RunError
from lorakit.searching.allocator import Allocator
from lorakit.training.hooks import Hook, TrainState

MANY = 2


class Diary(Protocol):
    """Where ticks are written down: a run, mostly."""

    def append(self, name: str, record: dict[str, Any]) -> None:
        """One more record of ``timeline``."""


class SearchHook(Hook):
    """Calls the allocator at every tick and writes its record to timeline.jsonl.

    seconds: what all ticks of this run took; writes: whether this process keeps the diary; optimizer: whose learning rates the allocator
    may lower for a step.
    """

    name = "search"

    def __init__(
        self, allocator: Allocator, run: Diary, *, writes: bool, optimizer: torch.optim.Optimizer | None = None
    ):
        self.allocator = allocator
        self.optimizer = optimizer
        self.run = run
        self.writes = writes
        self.seconds = 0.0
        self.steady = allocator.steady
        self.decided: int | None = None  # adapter parameters that the last tick left on

    def settled(self, state: TrainState) -> bool:
        """Whether the search has acted, and come down to its budget where there is a way to it."""
        allowed, budget = self.allocator.allowed(state.step), self.allocator.context.budget.parameters
        return self.decided is not None and max(self.decided, allowed) <= budget

    def to_close(self) -> tuple[int, int] | None:
        """Adapter parameters that are on, and the budget, where that is less than half of them: the search has not acted yet."""
        on, budget = self.allocator.context.adapted.adapter_parameters(), self.allocator.context.budget.parameters
        return (on, budget) if on > MANY * budget else None

    @FaultPoint("tick")
    def on_tick(self, state: TrainState) -> None:
        """Score, allocate, switch, record. Raises RunError where the budget does not hold afterwards."""
        tick = self.allocator.tick(state.step, state.epoch)
        self.seconds += tick.seconds
        self.decided = tick.parameters
        state.sites_on = len(tick.on)
        if tick.parameters > tick.budget:
            raise RunError(f"{tick.parameters:,} parameters are on, over the budget of {tick.budget:,}")
        if self.writes:
            self.run.append("timeline", tick.to_dict())

    def before_forward(self, state: TrainState) -> None:
        """Pass it on."""
        self.allocator.before_forward(state.step)

    def after_backward(self, state: TrainState) -> None:
        """Pass it on."""
        self.allocator.after_backward(state.step)

    def before_optimizer_step(self, state: TrainState) -> None:
        """Lower the learning rates for this step, where the allocator wants it; the schedule sets them again after it."""
        factor = self.allocator.rate(state.step)
        if self.optimizer is not None and factor != 1:
            for group in self.optimizer.param_groups:
                group["lr"] *= factor

    def after_step(self, state: TrainState) -> None:
        """Pass it on."""
        self.allocator.after_step(state.step)

    def after_trial_step(self) -> None:
        """Pass it on."""
        self.allocator.put_back()

    def on_train_end(self, state: TrainState) -> None:
        """A search that never acted is an error, not a result; so is one whose last choice is not what is on."""
        if self.allocator.ticks_done == 0:
            raise RunError("the search never acted: no tick fell into this training", hint="a smaller search.every")
        self.allocator.finish()
        adapted = self.allocator.context.adapted
        state.sites_on = len(adapted.on)
        on = adapted.adapter_parameters()
        if on != self.decided and not (self.allocator.empties and on < (self.decided or 0)):
            raise RunError(f"{on:,} adapter parameters are on at the end, and the search decided on {self.decided:,}")

    def state_dict(self) -> dict[str, Any]:
        """The allocator's state and the time spent."""
        return {"allocator": self.allocator.state_dict(), "seconds": self.seconds, "decided": self.decided}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        self.allocator.load_state_dict(state["allocator"])
        self.seconds, self.decided = state["seconds"], state["decided"]
