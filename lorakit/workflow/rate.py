"""The learning rate that ``training.lr: auto`` would find, and what it looks at, without a training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lorakit.artifacts.run import Run
from lorakit.recipe.load import AnyRecipe, load_recipe
from lorakit.tasks.task import TaskData
from lorakit.training.rate import FALL, FoundRate, search_rate, usual_rate
from lorakit.training.training import Training
from lorakit.training.trial_steps import Trials
from lorakit.workflow.prepare import prepare
from lorakit.workflow.setup import assemble


def preview_rate(
    recipe: AnyRecipe, overrides: Sequence[str] = (), *, data: TaskData | None = None, target: float = FALL
) -> FoundRate:
    """The rate that a training of this recipe would find, whatever rate the recipe gives; nothing is written.

    Args:
        recipe: the name of a shipped recipe, a YAML file, a run's folder, a file of data, or a recipe that is loaded.
        overrides: ``KEY=VALUE`` each, which win over the recipe.
        data: the rows, where they are at hand already.
        target: by what share the first steps of a short training should bring the loss down.

    Returns:
        The rate, and what was tried for it.

    Raises:
        RecipeError: for a wrong recipe, or one that does not fit its model.
        RunError: where no rate brings the loss down.

    Example:
        >>> preview_rate("demo").lr                                            # doctest: +SKIP
        0.0021
    """
    with about_to_train(recipe, overrides, data) as training:
        return search_rate(Trials(training).fall, usual_rate(training.recipe), training.schedule.total_steps, target)


def measure_falls(
    recipe: AnyRecipe, rates: Sequence[float], overrides: Sequence[str] = (), *, data: TaskData | None = None
) -> list[float]:
    """By what share the first steps at each of these rates bring a training's loss down (``training.trial_steps``); -inf: they break it.

    Args, errors: those of ``preview_rate``.

    Example:
        >>> measure_falls("demo", [1e-3, 2e-3])                              # doctest: +SKIP
        [0.021, 0.048]
    """
    with about_to_train(recipe, overrides, data) as training:
        trials = Trials(training)
        return [trials.fall(rate) for rate in rates]


@contextmanager
def about_to_train(recipe: AnyRecipe, overrides: Sequence[str], data: TaskData | None) -> Iterator[Training]:
    """A training just before its first step: its search has made its first choice. Its folder is gone afterwards."""
    loaded = load_recipe(recipe, [*overrides, "run.trackers=[]"])
    with tempfile.TemporaryDirectory() as folder:
        training = prepare(loaded, assemble(loaded, data), Run(Path(folder)))
        training.model.train()
        training.call("on_train_begin")
        if 0 in training.schedule.ticks:
            training.call("on_tick")
        yield training
