"""Which folder a training writes into: a fresh one, or one to go on with; ours alone while it trains."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorakit.artifacts.files import mend
from lorakit.artifacts.lock import claimed
from lorakit.artifacts.run import Run, claim, new_run, open_run, unfinished_run
from lorakit.errors import UsageError, command_line
from lorakit.recipe.keys import plain_values
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.workflow.accelerator import this_process

logger = logging.getLogger(__name__)

FREE_ON_RESUME = (
    "training.nonfinite",
    "training.gradient_checkpointing",
    "run.name",
    "run.folder",
    "run.offline",
    "run.keep_checkpoints",
)
"""Keys that may change between the parts of a run: none of them changes a number."""


def choose_run(loaded: LoadedRecipe, run_dir: str | Path | None, resume: bool) -> Run:
    """The folder to train in: the named one or the one that the recipe is of, or a fresh one, or the newest unfinished one."""
    recipe = loaded.recipe
    name, parent, seed = recipe.run.name or loaded.name, Path(recipe.run.folder), recipe.run.seed
    folder = loaded.folder if run_dir is None else Path(run_dir)
    if resume:
        return open_run(folder) if folder else unfinished_run(parent, name, seed)
    return claim(folder) if folder else new_run(parent, name, seed)


@contextmanager
def holding(run: Run, *, fresh: bool) -> Iterator[None]:
    """The run's folder is ours during the block, and what a kill left half done in it is put right. UsageError where another trains."""
    if not this_process().is_main_process:
        yield
        return
    with claimed(run.lock) as lock:
        if lock.held_by and not lock.held_by.here:
            raise UsageError(
                f"another process trains this run: {lock.held_by}",
                where=str(run.path),
                hint=f"wait for it, or name another --run-dir; where that process has ended, delete {run.lock}",
            )
        if fresh and run.recipe.exists():
            raise UsageError("another process has just trained here", where=str(run.path), hint="another --run-dir")
        if lock.left_by:
            logger.warning("%s: taken over from %s, which has ended", run.path, lock.left_by)
        mend(run.path)
        yield


def check_same_recipe(loaded: LoadedRecipe, run: Run) -> None:
    """Refuse to go on with a finished run, or with a recipe that is not the one the run was begun with."""
    if run.finished:
        raise UsageError(
            "this run was trained to its end already", where=str(run.path), hint="lorakit eval, or a new run"
        )
    if changed := changed_keys(loaded, run):
        raise UsageError(
            f"the recipe has changed since this run began: {', '.join(changed)}",
            where=str(run.path),
            hint=f"{command_line('train', run.path, '--resume')} goes on with the run's own recipe",
        )


def changed_keys(loaded: LoadedRecipe, run: Run) -> list[str]:
    """The keys, of those that matter, in which the recipe is not the one the run was begun with."""
    begun, given = plain_values(load_recipe(run.recipe).recipe), plain_values(loaded.recipe)
    keys = {**given, **begun}  # an entry of a mapping, such as a site's rank, may be in one of them alone
    return [key for key in keys if given.get(key) != begun.get(key) and key not in FREE_ON_RESUME]
