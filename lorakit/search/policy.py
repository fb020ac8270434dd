"""What every search method has: the model it steers, its budget, its own random stream, its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lorakit.adapters.attach import AdaptedModel
from lorakit.adapters.budget import Budget
from lorakit.recipe.schema import SearchSection
from lorakit.search.scoring import Logits, Loss
from lorakit.search.timeline import Tick
from lorakit.tasks.batching import Batch

DrawBatches = Callable[[int, torch.Generator], list[Batch]]


@dataclass(frozen=True)
class SearchContext:
    """What the workflow hands to a search method.

    costs: site -> parameters at its full rank; draw: (number, generator) -> batches of training rows; generator: the search's stream.
    """

    adapted: AdaptedModel
    search: SearchSection
    budget: Budget
    costs: dict[str, int]
    draw: DrawBatches
    loss: Loss
    logits: Logits
    regression: bool
    generator: torch.Generator


class Policy(ABC):
    """A search method, called at every tick."""

    def __init__(self, context: SearchContext):
        self.context = context
        self.ticks = 0

    @abstractmethod
    def tick(self, step: int, epoch: float) -> Tick:
        """Score, allocate, switch; return what happened."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state for a checkpoint: what is on, how far the stream is."""
        return {
            "ticks": self.ticks,
            "states": self.context.adapted.states(),
            "generator": self.context.generator.get_state().tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        self.ticks = state["ticks"]
        self.context.adapted.restore(state["states"])
        self.context.generator.set_state(torch.tensor(state["generator"], dtype=torch.uint8))
