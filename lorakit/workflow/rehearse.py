"""What acts in a training, made as the training makes it and let go again: what it refuses is refused before anything is trained."""

from __future__ import annotations

from typing import Any, cast

from torch.optim import Optimizer

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.training.loader import TrainLoader
from lorakit.training.objective import Objective
from lorakit.training.schedule import Schedule
from lorakit.training.update import update_notes
from lorakit.workflow.parts import Parts
from lorakit.workflow.prepare import make_updates
from lorakit.workflow.setup import make_allocator

ABSENT: Any = None
"""In place of rows and a device: a search and an update compute nothing when they are made, and are asked for nothing afterwards."""


def rehearse(parts: Parts, adapted: AdaptedModel, schedule: Schedule) -> None:
    """Raise RecipeError where the recipe's updates or its search cannot work on these adapters, or in so few steps.

    Other adapters may be on afterwards: some updates switch them when they are made.
    """
    recipe, optimizer = parts.recipe, cast(Optimizer, ABSENT)
    objective, loader = Objective(ABSENT, parts.task.regression), TrainLoader(ABSENT, recipe.training, recipe.run.seed)
    update_notes(recipe, adapted)
    if recipe.search.method != "none":
        make_allocator(parts, adapted, loader, objective, schedule)
    make_updates(recipe, adapted, schedule, objective, optimizer, loader, loader, fresh=True)
