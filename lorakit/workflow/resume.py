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
from lorakit.recipe.load import LoadedRecipe
from lorakit.workflow.accelerator import this_process
from lorakit.workflow.unfinished import changed_keys, refuse_unfinished

logger = logging.getLogger(__name__)


def choose_run(loaded: LoadedRecipe, run_dir: str | Path | None, resume: bool) -> Run:
    """The folder to train in: the named one or the one that the recipe is of, or a fresh one, or the newest unfinished one."""
    recipe = loaded.recipe
    name, parent, seed = recipe.run.name or loaded.name, Path(recipe.run.folder), recipe.run.seed
    folder = loaded.folder if run_dir is None else Path(run_dir)
    if resume:
        return open_run(folder) if folder else unfinished_run(parent, name, seed)
    if not folder:
        return new_run(parent, name, seed)
    refuse_unfinished(loaded, folder)
    return claim(folder)


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
