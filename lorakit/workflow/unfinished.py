"""A run that was stopped, for who is about to train the same recipe once more: how far it came, and the line that goes on with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lorakit.artifacts.memory_file import MEMORY
from lorakit.artifacts.readout_file import read_choice
from lorakit.artifacts.run import Run, named_runs
from lorakit.artifacts.standing import standing
from lorakit.errors import LorakitError, UsageError, command_line
from lorakit.recipe.keys import plain_values
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.schema import AUTO, Recipe

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
PLACE_OF_MEMORY = "adapter.update_options.memory"
"""A file in the folder of the run's sequence, which may have moved."""


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


def as_begun(loaded: LoadedRecipe, run: Run) -> LoadedRecipe:
    """The recipe to go on with ``run`` by: what was found before its first step stands where the recipe says auto."""
    return replace(loaded, recipe=with_found(loaded.recipe, load_recipe(run.recipe).recipe, run))


def with_found(recipe: Recipe, own: Recipe, run: Run) -> Recipe:
    """``recipe`` with what the run's ``own`` one says in the place of what the run found: where it says auto, and sites of experts."""
    model, training = recipe.model, recipe.training
    if model.readout == AUTO and read_choice(run):
        model = replace(model, readout=own.model.readout)
    if training.freeze_below == AUTO:
        training = replace(training, freeze_below=own.training.freeze_below)
    adapter = recipe.adapter
    if adapter.experts:
        adapter = replace(
            adapter, targets=own.adapter.targets, rank=own.adapter.rank, allocation=own.adapter.allocation
        )
    return replace(recipe, model=model, training=training, adapter=adapter)


def changed_keys(loaded: LoadedRecipe, run: Run) -> list[str]:
    """The keys, of those that matter, in which the recipe is not the one the run was begun with."""
    own = load_recipe(run.recipe).recipe
    begun, given = plain_values(own), plain_values(with_found(loaded.recipe, own, run))
    keys = {**given, **begun}  # an entry of a mapping, such as a site's rank, may be in one of them alone
    changed = [key for key in keys if given.get(key) != begun.get(key) and key not in FREE_ON_RESUME]
    return [key for key in changed if key != PLACE_OF_MEMORY or not own_memory(run, begun.get(key), given.get(key))]


def own_memory(run: Run, begun: object, given: object) -> bool:
    """Whether the memory that is ``given`` is the one that the run was begun with, where the folder of its sequence is now."""
    if begun is None or given is None:
        return False
    return Path(str(given)).resolve() == (run.path.parent.parent / MEMORY / Path(str(begun)).name).resolve()
