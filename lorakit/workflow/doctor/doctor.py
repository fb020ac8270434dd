"""``lorakit doctor``: the environment, a run's folder, and a training that is killed, resumed and merged before the person's eyes."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lorakit.errors import RunError
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.result import Result
from lorakit.tasks.bundled import INSTALL
from lorakit.workflow.doctor.crash_resume import crash_and_resume, differences, outcome
from lorakit.workflow.doctor.environment import (
    FAILED,
    SKIPPED,
    Check,
    Finding,
    bundled_missing,
    check,
    check_environment,
)
from lorakit.workflow.doctor.faults import Kill, run_process
from lorakit.workflow.doctor.run_folder import check_run
from lorakit.workflow.merge import merge

logger = logging.getLogger(__name__)

SMALL = (
    "task.max_length=32",
    "task.max_train_rows=64",
    "task.max_eval_rows=32",
    "adapter.rank=4",
    "adapter.dropout=0.1",
    "training.batch_size=4",
    "training.accumulate=2",  # 8 steps an epoch
    "training.epochs=1.5",
    "search.every=0.5",
    "evaluation.every_steps=5",
    "run.log_every=3",
    "run.checkpoint_every=0.25",  # 2 steps
)
"""The demo, in seconds."""
KILLS = (Kill("step", 6, 0.01), Kill("checkpoint's tensors", 5))
"""In a forward or backward pass; then in a checkpoint of which one file of three is written."""
RECIPE = "demo"


@dataclass(frozen=True)
class Diagnosis(Result):
    """What was looked at, and what was found.

    Attributes:
        checks: in the order of the table: what was looked at, the verdict, the detail, the advice.
    """

    checks: list[Check]

    @property
    def well(self) -> bool:
        """Whether none failed."""
        return all(row.verdict != FAILED for row in self.checks)


def doctor(run: str | Path | None = None, *, quick: bool = False) -> Diagnosis:
    """Look at the machine, at a run's folder where one is named, and at a small training that is killed, resumed and merged.

    Args:
        run: a run's folder, or that of a GLoRA search.
        quick: leave out the training.

    Returns:
        All checks with their verdicts; ``well`` tells whether none failed. What is wrong is a verdict, never an exception.

    Raises:
        UsageError: where ``run`` is no run folder.

    Example:
        >>> lorakit.doctor("runs/demo-0", quick=True).well                                # doctest: +SKIP
    """
    of_run = check_run(Path(run)) if run else [Check("run", SKIPPED, "none was named", "lorakit doctor RUN")]
    return Diagnosis([*check_environment(), *of_run, *check_training(quick)])


def check_training(quick: bool) -> list[Check]:
    """The demo cut short: trained, killed and resumed, merged, each in a place that is gone afterwards."""
    names = ("training", "kill and resume", "merge")
    if quick:
        return [Check(name, SKIPPED, "left out by --quick", "") for name in names]
    if bundled_missing():
        return [Check(name, SKIPPED, "needs the bundled model and sentences", INSTALL) for name in names]
    with tempfile.TemporaryDirectory(prefix="lorakit-doctor-") as place:
        folder = Path(place)
        loaded = load_recipe(RECIPE, [*SMALL, f"run.folder={folder}"])
        logger.info("training %s, cut short", loaded.recipe.model.name)
        trained = check(names[0], partial(train_once, loaded, folder / "undisturbed"))
        if trained.verdict == FAILED:
            return [trained, *(Check(name, SKIPPED, "there is no training to look at", "") for name in names[1:])]
        logger.info("the same, killed twice and resumed")
        survived = check(names[1], partial(kill_and_resume, loaded, folder))
        logger.info("merging")
        return [trained, survived, check(names[2], partial(merge_once, folder / "undisturbed"))]


def train_once(loaded: LoadedRecipe, run: Path) -> Finding:
    """Train without any disturbance."""
    ended = run_process(loaded, run)
    if ended.code != 0:
        raise RunError(f"the training ended with code {ended.code}: {ended.said}")
    return Finding(f"{ended.times['step']} steps in {ended.seconds['training']:.1f} s")


def kill_and_resume(loaded: LoadedRecipe, folder: Path) -> Finding:
    """The same training, killed, against the undisturbed one."""
    crashes = crash_and_resume(loaded, folder / "killed", KILLS)
    told = ", then in ".join(crash.where.removeprefix("training > ") for crash in crashes)
    if different := differences(outcome(folder / "undisturbed"), outcome(folder / "killed")):
        raise RunError(f"killed in {told}, the resumed run is not the same: {'; '.join(different)}")
    if len(crashes) < len(KILLS):
        raise RunError(f"only {len(crashes)} of {len(KILLS)} kills came before the training was over")
    return Finding(f"killed in {told}; the resumed run has the same weights, records and checkpoints, bit for bit")


def merge_once(run: Path) -> Finding:
    """Fold the undisturbed run; ``merge`` raises where the merged model is another."""
    proof = merge(run)
    where = f"largest logit difference {proof.largest_difference:.2g} on {proof.rows} rows"
    return Finding(f"{proof.folded} sites folded, {len(proof.kept)} kept beside; {where}, {proof.flips} labels changed")
