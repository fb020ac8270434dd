"""What acts in a training, made as the training makes it and let go again: what it refuses is refused before anything is trained."""

from __future__ import annotations

from typing import Any

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.training.loader import TrainLoader
from lorakit.training.objective import Objective
from lorakit.training.schedule import Schedule
from lorakit.training.update import update_notes
from lorakit.workflow.parts import Parts
from lorakit.workflow.prepare import make_updates
from lorakit.workflow.setup import make_allocator

ABSENT: Any = None
"""In place of rows, a device and an optimiser: a search and an update compute nothing when they are made."""


def rehearse(parts: Parts, adapted: AdaptedModel, schedule: Schedule) -> None:
    """Raise RecipeError where the recipe's updates or its search cannot work on these adapters, or in so few steps.

    Other adapters may be on afterwards: some updates switch them when they are made.
    """
    recipe = parts.recipe
    objective, loader = Objective(ABSENT, parts.task.regression), TrainLoader(ABSENT, recipe.training, recipe.run.seed)
    update_notes(recipe, adapted)
    if recipe.search.method != "none":
        make_allocator(parts, adapted, loader, objective, schedule)
    make_updates(recipe, adapted, schedule, objective, ABSENT, loader, loader, fresh=True)
