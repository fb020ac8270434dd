"""What an optimiser is to a recipe (``training.optimizer``): how it is made, what it keeps of each tensor, and where it runs.

An optimiser is an ``OptimizerKind`` record in a file of ``optimizers/`` that registers itself. What it makes is a torch optimiser whose
``state_dict`` holds numbers and tensors alone: that is what checkpoints keep, and a loaded one goes on to the bit. Its state of a tensor
comes into being with that tensor's first step, so that whoever forgets it (a restart, a second phase) need only delete it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lorakit.adapters.options import Option, read_settings
from lorakit.errors import Problem
from lorakit.recipe.schema import ADAMW
from lorakit.registry import Registry

OPTIONS_KEY = "training.optimizer_options"
KEY = "training.optimizer"
WHOLE = 4
"""Bytes of a number in 32 bits."""

Settings = Mapping[str, Any]
"""Option -> its value, as its type: as the recipe gives it, else its default."""
Groups = list[dict[str, Any]]
"""Torch's parameter groups: ``params``, with their ``lr`` and ``weight_decay``."""


@dataclass(frozen=True)
class OptimizerKind:
    """An optimiser, as a record of what it is and does.

    name: what recipes call it; summary: a line; source: paper and section; make: (groups, settings, seed) -> a torch optimiser, whose
    draws depend on the seed alone; state_bytes: (shape, settings) -> bytes that it keeps of a tensor of that shape, step counts apart;
    step_bytes: (shape, device) -> those that a step of such a tensor makes for a moment; options: its own settings
    (``training.optimizer_options``); keeps_moments: whether Adam's two moments are in its state, each in 32 bits and in the parameter's
    own shape, for who changes them with the parameter; refusals: (shapes of what trains, settings) -> why it does not suit that; check:
    RecipeError where it does not run on a device.
    """

    name: str
    summary: str
    source: str
    make: Callable[[Groups, Settings, int], torch.optim.Optimizer]
    state_bytes: Callable[[Sequence[int], Settings], int]
    step_bytes: Callable[[Sequence[int], torch.device], int] = lambda shape, device: 0
    options: Mapping[str, Option] = field(default_factory=dict)
    keeps_moments: bool = False
    refusals: Callable[[Sequence[Sequence[int]], Settings], list[Problem]] = lambda shapes, settings: []
    check: Callable[[torch.device], None] = lambda device: None

    def settings_from(self, given: Mapping[str, str]) -> dict[str, Any]:
        """The value of every option. Raises RecipeError with all names and values that it does not have."""
        return read_settings(f"optimiser '{self.name}'", self.options, given, OPTIONS_KEY)


optimizers: Registry[OptimizerKind] = Registry("optimiser", "lorakit.training.optimizers")


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """All of them, as ``state_dict`` numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def no_use(name: str, where: str) -> Problem:
    """The refusal of an optimiser that would do to nothing what it is for; where: to what it does."""
    return Problem(
        f"optimiser '{name}' is for {where}, and nothing that trains here is of that size",
        key=KEY,
        valid=ADAMW,
        hint=f"{OPTIONS_KEY} with other sizes, or adapter.method=full",
    )
