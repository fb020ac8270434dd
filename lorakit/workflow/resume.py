"""Which folder a training writes into: a fresh one, or one to go on with; ours alone while it trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorakit.artifacts.files import mend, remove_folder
from lorakit.artifacts.lock import BEAT, check_held, claimed
from lorakit.artifacts.run import Run, claim, new_run, open_run, unfinished_run
from lorakit.artifacts.standing import Standing, killed_at_its_start, standing
from lorakit.errors import UsageError, command_line
from lorakit.recipe.load import LoadedRecipe
from lorakit.training.hooks import Hook, TrainState
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
    if killed_at_its_start(Run(folder)):
        make_room(Run(folder))
    return claim(folder)


def can_go_on(run: Run) -> bool:
    """Whether a run of several that belong together is there to go on with; one stopped before its first checkpoint makes room."""
    if not run.recipe.is_file():
        return False
    if standing(run) != Standing("interrupted"):
        return True
    make_room(run)
    return False


def make_room(run: Run) -> None:
    """Delete what a training left that was stopped before its first checkpoint."""
    this_process().wait_for_everyone()
    if this_process().is_main_process:
        logger.info("%s was stopped before its first checkpoint: it is trained anew", run.path)
        remove_folder(run.path)
    this_process().wait_for_everyone()


class StillOurs(Hook):
    """Stops a training whose run another worker has taken over, because this process was asleep or cut off for too long."""

    def __init__(self, run: Run) -> None:
        self.lock, self.looked = run.lock, time.monotonic()

    def after_step(self, state: TrainState) -> None:
        """Look from time to time."""
        if time.monotonic() - self.looked > BEAT:
            check_held(self.lock)
            self.looked = time.monotonic()


@contextmanager
def holding(run: Run, *, fresh: bool) -> Iterator[list[Hook]]:
    """The run's folder is ours during the block, and what a kill left half done in it is put right; what the training is to have to see
    to it. UsageError where another trains.
    """
    if not this_process().is_main_process:
        yield []
        return
    with claimed(run.lock, patient=True) as lock:
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
        yield [StillOurs(run)]


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
