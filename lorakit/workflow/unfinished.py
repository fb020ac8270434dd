"""A run that was stopped, for who is about to train the same recipe once more: how far it came, and the line that goes on with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorakit.artifacts.readout_file import read_choice
from lorakit.artifacts.run import Run, named_runs
from lorakit.artifacts.standing import standing
from lorakit.backbone.lower_layers import KEY as FREEZE_KEY
from lorakit.backbone.readout import READOUT_KEY
from lorakit.errors import LorakitError, UsageError, command_line
from lorakit.recipe.keys import plain_values
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.schema import AUTO

FREE_ON_RESUME = (
    "training.nonfinite",
    "training.gradient_checkpointing",
    "training.freeze_cache",
    "run.name",
    "run.folder",
    "run.offline",
    "run.keep_checkpoints",
)
"""Keys that may change between the parts of a run: none of them changes a number."""


@dataclass(frozen=True)
class Resumable:
    """A run that was stopped: how many of its steps are kept."""

    run: Run
    step: int
    steps: int

    def __str__(self) -> str:
        return f"{self.run.path} was stopped, and {self.step:,} of its {self.steps:,} steps are kept: {self.line} goes on with it"

    @property
    def line(self) -> str:
        """What goes on with it."""
        return command_line("train", self.run.path, "--resume")


def find_resumable(loaded: LoadedRecipe) -> Resumable | None:
    """The newest stopped run of the recipe's own name, with the same values and seed, that can go on; None without one."""
    recipe = loaded.recipe
    named = named_runs(Path(recipe.run.folder), recipe.run.name or loaded.name, recipe.run.seed)
    return next((found for run in reversed(named) if (found := resumable(loaded, run))), None)


def refuse_unfinished(loaded: LoadedRecipe, folder: Path) -> None:
    """UsageError where ``folder``, in which a training is to begin, holds a stopped run of the same recipe."""
    if stopped := resumable(loaded, Run(folder)):
        raise UsageError(str(stopped), hint="another --run-dir, to train anew")


def resumable(loaded: LoadedRecipe, run: Run) -> Resumable | None:
    """How far ``run`` is, where it was stopped and is of this recipe; None where it is finished, running, broken or another's."""
    try:
        if not run.recipe.is_file():
            return None
        became = standing(run)
        if became.state != "interrupted" or became.step is None or became.steps is None or changed_keys(loaded, run):
            return None
    except (LorakitError, OSError):
        return None
    return Resumable(run, became.step, became.steps)


def changed_keys(loaded: LoadedRecipe, run: Run) -> list[str]:
    """The keys, of those that matter, in which the recipe is not the one the run was begun with."""
    begun, given = plain_values(load_recipe(run.recipe).recipe), plain_values(loaded.recipe)
    if given[READOUT_KEY] == AUTO and (choice := read_choice(run)):  # the run's recipe says what was decided
        given = {**given, READOUT_KEY: choice.chosen}
    if given[FREEZE_KEY] == AUTO:  # as above
        given = {**given, FREEZE_KEY: begun[FREEZE_KEY]}
    keys = {**given, **begun}  # an entry of a mapping, such as a site's rank, may be in one of them alone
    return [key for key in keys if given.get(key) != begun.get(key) and key not in FREE_ON_RESUME]
