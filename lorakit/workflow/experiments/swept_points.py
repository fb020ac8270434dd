"""The points of a sweep, trained: those of a grid, or those that Optuna draws."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lorakit.errors import RunError
from lorakit.workflow.experiments.arms import Entry, essence, paired_order, rises
from lorakit.workflow.experiments.elsewhere import Elsewhere, Trainer
from lorakit.workflow.experiments.grid import Point
from lorakit.workflow.experiments.ranking import SweptPoint
from lorakit.workflow.experiments.sweep_spec import SweepSpec
from lorakit.workflow.experiments.totals import ComparedRun, compared_run, totals
from lorakit.workflow.experiments.workers import Missing, failures

if TYPE_CHECKING:
    from lorakit.training.hooks import Hook
    from lorakit.workflow.experiments.optuna_trials import Trial
    from lorakit.workflow.experiments.pruning import Watched

logger = logging.getLogger(__name__)

JOURNAL = "study.journal"

Found = tuple[list[SweptPoint], list[Missing], list[Missing]]  # points, failed, missing


def train_grid(spec: SweepSpec, train: Trainer) -> Found:
    """Train what is missing of the grid, seed by seed."""
    total, absent = len(spec.arms) * len(spec.seeds), paired_order(spec.arms)
    grid = f"{len(spec.points)} points, {len(spec.seeds)} seeds: {total - len(absent)} of {total} runs are there"
    logger.info("%s, %d to train", grid, len(absent))
    failed, missing = train(absent, total)
    points = [
        swept(spec, arm.name, point.values, [compared_run(arm.entries[seed]) for seed in sorted(arm.finished)])
        for point, arm in zip(spec.points, spec.arms, strict=True)
    ]
    return points, failed, missing


def draw_trials(spec: SweepSpec, trials: int, train: Trainer) -> list[Trial]:
    """Draw points and train them with every seed, until there are as many as wanted."""
    from lorakit.workflow.experiments.optuna_trials import Sampling

    asked, space = spec.asked, spec.space

    def train_point(point: Point, shown: str, watched: Watched | None) -> list[ComparedRun]:
        logger.info("%s", shown)
        arm = spec.arm(point)
        first = arm.entries[spec.seeds[0]]

        def beside(entry: Entry) -> list[Hook]:
            return [watched] if watched is not None and entry is first else []

        if watched is not None:
            watched.look(first.run)
        absent, total = paired_order([arm]), len(spec.seeds)
        failed, _ = train(absent, total, wait=True, beside=beside)
        if failed:
            raise RunError(failures(failed))
        if watched is not None:
            watched.look(first.run)
        return [compared_run(entry) for entry in arm.entries.values()]

    fixed = {key: value for key, value in essence(spec.arms[0].recipe).items() if key not in space.keys}
    varying = {axis.key: axis.texts for axis in space.axes} | {span.key: str(span) for span in space.ranges}
    sampling = Sampling(
        space=space,
        name=spec.name,
        storage=asked.storage or str(spec.folder / JOURNAL),
        folder=spec.folder,
        wanted=trials,
        seed=spec.seeds[0],
        metric=spec.metric,
        rises=rises(spec.metric),
        asked={**fixed, **varying, "--seeds": list(spec.seeds), "--metric": spec.metric, "--prune": asked.prune},
        train=train_point,
        prune=asked.prune,
        evaluations=spec.evaluations,
    )
    if isinstance(train, Elsewhere):
        if not sampling.complete():
            train.see_done()
        return sampling.known()
    return sampling.run(wait=asked.wait, again=spec.again())


def from_trials(spec: SweepSpec, trials: Sequence[Trial]) -> Found:
    """The points of a study; one that was drawn twice is there once."""
    points: dict[str, SweptPoint] = {}
    for trial in sorted(trials, key=lambda trial: trial.state == "finished"):
        if trial.state in ("finished", "failed", "pruned") and trial.settings:
            point = swept(spec, trial.name, trial.settings, trial.runs)
            points[trial.name] = replace(point, reached=trial.reached)
    failed = [Missing(label(trial), trial.why) for trial in trials if trial.state == "failed"]
    missing = [
        Missing(label(trial), f"another worker trains it: {trial.worker}" if trial.worker else "not begun yet")
        for trial in trials
        if trial.state in ("running", "waiting")
    ]
    return list(points.values()), failed, missing


def label(trial: Trial) -> str:
    """What a trial is called."""
    return f"trial {trial.number + 1}" + (f", {trial.name}" if trial.name else "")


def swept(spec: SweepSpec, name: str, settings: dict[str, Any], runs: Sequence[ComparedRun]) -> SweptPoint:
    """A point with what its runs come to."""
    model = settings.get("model.name", spec.arms[0].recipe.model.name)
    return SweptPoint(name, settings, totals(name, model, runs, spec.metric) if runs else None)
