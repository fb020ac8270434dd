"""``lorakit sweep``: a recipe over a grid of its keys, or over values that Optuna draws, and over several seeds; best first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lorakit.artifacts.files import write_json, write_text
from lorakit.artifacts.run import environment
from lorakit.errors import LorakitError, Problem, RunError, UsageError
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.overlays import COMMAND_LINE
from lorakit.recipe.values import written
from lorakit.workflow.experiments.arms import Side, check_named_apart, check_same_data, essence, paired_order, to_train
from lorakit.workflow.experiments.grid import Point, Space, read_space
from lorakit.workflow.experiments.outlook import Outlook, choose_metric, look_ahead, rises
from lorakit.workflow.experiments.swept import SweptPoint, draw, rank, warnings
from lorakit.workflow.experiments.totals import ComparedRun, as_csv, compared_run, totals
from lorakit.workflow.experiments.workers import Missing, Watch, command, train_missing, unwatched
from lorakit.workflow.setup import Result, talk, this_process

if TYPE_CHECKING:
    from lorakit.workflow.experiments.optuna_trials import Trial

T = TypeVar("T")

SEEDS = (0, 1, 2)
JOURNAL = "study.journal"


@dataclass(frozen=True)
class PlannedPoint(Result):
    """A point before its training: what varies there, its adapter parameters allowed and those of the head, and the runs done."""

    name: str
    settings: dict[str, Any]
    budget: int
    head_parameters: int
    finished: list[int]


@dataclass(frozen=True)
class SweepPlan(Result):
    """What a sweep would train. ranges: what would be drawn from, of a sweep by trials; its points are the ends of the ranges."""

    folder: Path
    task: str
    metric: str
    seeds: list[int]
    trials: int | None
    ranges: dict[str, str]
    points: list[PlannedPoint]


@dataclass(frozen=True)
class Sweep(Result):
    """The points, the best first, by the metric after the last epoch; those without a run last.

    best: the command that trains the best point again, with the first seed; trials: of the study where there is one, failed ones
    and their repetitions included; failed: runs or trials that failed; missing: those that are not there yet; figure: where one key
    varies over numbers.
    """

    folder: Path
    recipe: str
    task: str
    metric: str
    best_by: str
    higher_is_better: bool
    seeds: list[int]
    points: list[SweptPoint]
    best: str
    trials: list[Trial]
    failed: list[Missing]
    missing: list[Missing]
    warnings: list[str]
    figure: Path | None


@dataclass(frozen=True)
class Ground:
    """What is swept, checked. argument: the recipe as a file's or shipped name; sides: of every point of the grid, or of the ends of
    its ranges, in the order of ``points``.
    """

    argument: str
    name: str
    space: Space
    seeds: Sequence[int]
    folder: Path
    points: list[Point]
    sides: list[Side]
    known: list[Outlook]
    metric: str
    best_by: str

    def load(self, point: Point) -> LoadedRecipe:
        """The recipe at ``point``."""
        return load_recipe(self.argument, [*self.space.fixed, *point.overrides])

    def side(self, point: Point, loaded: LoadedRecipe) -> Side:
        """The recipe at ``point``, with a run for every seed."""
        name = point.named(self.name)
        entries = {entry.seed: entry for entry in to_train(loaded, name, self.seeds, self.folder)}
        return Side(name, loaded.recipe, entries, given=True)


def sweep(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    seeds: Sequence[int] = SEEDS,
    folder: Path | None = None,
    metric: str | None = None,
    trials: int | None = None,
    storage: str | None = None,
    wait: bool = True,
    table: Path | None = None,
    offline: bool = False,
    watch: Watch = unwatched,
) -> Sweep:
    """Train the recipe at every point of a grid with every seed, unless it is trained already, and rank the points.

    overrides: KEY=VALUE for all points, KEY=VALUE,VALUE for what varies; folder: of the runs, runs/sweep-NAME where not given;
    metric: another one of the task's; trials: that many points drawn by Optuna instead of all, also from KEY=LOW..HIGH; storage: of
    its study, a journal in the folder where not given; wait: for what other workers train; table: a csv file of all runs; watch:
    gives the hook that shows a training's progress, as a context. A failed training does not stop the others, and is in ``failed``.
    Raises UsageError or RecipeError with the mistakes of all points before anything is trained, RunError where no run is there in
    the end, and Interrupted after a polite stop.
    """
    ground = survey(
        recipe, overrides, seeds=seeds, folder=folder, metric=metric, trials=trials, storage=storage, offline=offline
    )
    options = {"--seeds": seeds, "--folder": folder, "--metric": metric, "--trials": trials, "--storage": storage}
    words = [recipe, *overrides, *(["--offline"] if offline else [])]
    again = command("sweep", words, {**options, "--csv": table})
    if trials is None:
        found, failed, missing = train_grid(ground, watch, wait=wait, again=again)
        drawn: list[Trial] = []
    else:
        drawn = draw_trials(ground, trials, storage, watch, wait=wait, again=again)
        found, failed, missing = from_trials(ground, drawn)
    return conclude(ground, found, drawn, failed, missing, table)


def plan_sweep(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    seeds: Sequence[int] = SEEDS,
    folder: Path | None = None,
    metric: str | None = None,
    trials: int | None = None,
    storage: str | None = None,
    offline: bool = False,
) -> SweepPlan:
    """What ``sweep`` would train, checked as it would be; nothing is trained or written."""
    ground = survey(
        recipe, overrides, seeds=seeds, folder=folder, metric=metric, trials=trials, storage=storage, offline=offline
    )
    return SweepPlan(
        folder=ground.folder,
        task=ground.sides[0].recipe.task.name,
        metric=ground.metric,
        seeds=list(seeds),
        trials=trials,
        ranges={span.key: str(span) for span in ground.space.ranges},
        points=[
            PlannedPoint(side.name, point.values, outlook.budget, outlook.head, side.finished)
            for point, side, outlook in zip(ground.points, ground.sides, ground.known, strict=True)
        ],
    )


def survey(
    recipe: str,
    overrides: Sequence[str],
    *,
    seeds: Sequence[int],
    folder: Path | None,
    metric: str | None,
    trials: int | None,
    storage: str | None,
    offline: bool,
) -> Ground:
    """Read what is asked for and check all of it, on the real model and data. Raises UsageError or RecipeError with every mistake."""
    if this_process().num_processes > 1:
        raise UsageError("a sweep is made by one process", hint="several workers on one folder share its runs")
    check_named_apart(overrides)
    space = read_space([*overrides, *(["run.offline=true"] if offline else [])])
    check_trials(space, trials, storage)
    argument = str(Path(recipe) / "recipe.yaml") if Path(recipe).is_dir() else recipe
    points = space.points() if trials is None else space.corners()
    ground = Ground(argument, "", space, seeds, Path(), points, [], [], "", "")
    loaded = checked(points, ground.load)
    name = loaded[0].recipe.run.name or loaded[0].name
    ground = replace(ground, name=name, folder=folder or Path(f"runs/sweep-{name}"))
    sides = list(map(ground.side, points, loaded))
    check_same_data(sides)
    for side in sides:
        for entry in side.entries.values():
            entry.check_same_recipe()
    named = {side.name: side for side in sides}
    foreseen = checked(points, lambda point: look_ahead(named[point.named(name)], train=True))
    known = [outlook for outlook in foreseen if outlook is not None]
    chosen, best_by = choose_metric(known, metric)
    return replace(ground, sides=sides, known=known, metric=chosen, best_by=best_by)


def check_trials(space: Space, trials: int | None, storage: str | None) -> None:
    """Raises UsageError for ranges and a storage without trials, and for trials without Optuna or without anything to draw."""
    if trials is None:
        if storage is not None:
            raise UsageError("is for --trials: a grid is shared through its folder", where="--storage")
        if space.ranges:
            valid, hint = "KEY=VALUE,VALUE for a grid", "--trials N, which draws from it N times"
            raise UsageError(
                [
                    Problem(f"{span} is a range, and a grid wants values", COMMAND_LINE, span.key, valid, hint)
                    for span in space.ranges
                ]
            )
        return
    if trials < 1 or not space.keys:
        what = "there is nothing to draw" if trials >= 1 else f"{trials} trials are none"
        raise UsageError(what, where="--trials", valid="KEY=LOW..HIGH or KEY=VALUE,VALUE, and a number from 1")
    try:
        from optuna.storages import RetryHeartbeatStaleTrialCallback  # noqa: F401 - is it there, and new enough?
    except ImportError:
        hint = "pip install optuna --upgrade"
        raise UsageError("draws by Optuna 4.9 or newer, which is not installed", where="--trials", hint=hint) from None


def checked(points: Sequence[Point], work: Callable[[Point], T]) -> list[T]:
    """``work`` on every point. Raises one error with the mistakes of all, each once and with the points where it is one."""
    done, kinds, wrong = list[T](), list[type[LorakitError]](), dict[Problem, list[Point]]()
    for point in points:
        try:
            done.append(work(point))
        except LorakitError as error:
            kinds.append(type(error))
            for problem in error.problems:
                wrong.setdefault(problem, []).append(point)
    if wrong:
        raise kinds[0]([at_points(problem, found, points) for problem, found in wrong.items()])
    return done


def at_points(problem: Problem, found: Sequence[Point], points: Sequence[Point]) -> Problem:
    """The problem with what its points have in common, or the first of them; as it is where all points have it."""
    if len(found) == len(points):
        return problem
    common = [text for text in found[0].overrides if all(text in point.overrides for point in found)]
    others = "" if common else f" and {len(found) - 1} more"
    return replace(problem, where=f"{problem.where} (at {' '.join(common or found[0].overrides)}{others})".lstrip())


Found = tuple[list[SweptPoint], list[Missing], list[Missing]]  # points, failed, missing


def train_grid(ground: Ground, watch: Watch, *, wait: bool, again: str) -> Found:
    """Train what is missing of the grid, seed by seed."""
    total, absent = len(ground.sides) * len(ground.seeds), paired_order(ground.sides)
    grid = f"{len(ground.points)} points, {len(ground.seeds)} seeds: {total - len(absent)} of {total} runs are there"
    talk.info("%s, %d to train", grid, len(absent))
    failed, missing = train_missing(absent, total, watch, wait=wait, again=again)
    points = [
        swept(ground, side.name, point.values, [compared_run(side.entries[seed]) for seed in sorted(side.finished)])
        for point, side in zip(ground.points, ground.sides, strict=True)
    ]
    return points, failed, missing


def draw_trials(
    ground: Ground, trials: int, storage: str | None, watch: Watch, *, wait: bool, again: str
) -> list[Trial]:
    """Draw points and train them with every seed, until there are as many as wanted."""
    from lorakit.workflow.experiments.optuna_trials import Sampling

    def train(point: Point, shown: str) -> list[ComparedRun]:
        talk.info("%s", shown)
        side = ground.side(point, ground.load(point))
        failed, _ = train_missing(paired_order([side]), len(ground.seeds), watch, wait=True, again=again)
        if failed:
            raise RunError([Problem(lost.why, where=lost.run) for lost in failed])
        return [compared_run(entry) for entry in side.entries.values()]

    fixed = {key: value for key, value in essence(ground.sides[0].recipe).items() if key not in ground.space.keys}
    varying = {axis.key: axis.texts for axis in ground.space.axes} | {
        span.key: str(span) for span in ground.space.ranges
    }
    return Sampling(
        space=ground.space,
        name=ground.name,
        storage=storage or str(ground.folder / JOURNAL),
        wanted=trials,
        seed=ground.seeds[0],
        metric=ground.metric,
        rises=rises(ground.metric),
        asked={**fixed, **varying, "--seeds": list(ground.seeds), "--metric": ground.metric},
        train=train,
    ).run(wait=wait, again=again)


def from_trials(ground: Ground, trials: Sequence[Trial]) -> Found:
    """The points of a study; one that was drawn twice is there once."""
    points: dict[str, SweptPoint] = {}
    for trial in sorted(trials, key=lambda trial: trial.state == "finished"):
        if trial.state in ("finished", "failed") and trial.settings:
            points[trial.name] = swept(ground, trial.name, trial.settings, trial.runs)
    failed = [Missing(label(trial), trial.why) for trial in trials if trial.state == "failed"]
    missing = [
        Missing(label(trial), f"another worker trains it: {trial.worker}" if trial.worker else "is not begun yet")
        for trial in trials
        if trial.state in ("running", "waiting")
    ]
    return list(points.values()), failed, missing


def label(trial: Trial) -> str:
    """What a trial is called."""
    return f"trial {trial.number + 1}" + (f", {trial.name}" if trial.name else "")


def swept(ground: Ground, name: str, settings: dict[str, Any], runs: Sequence[ComparedRun]) -> SweptPoint:
    """A point with what its runs come to."""
    model = settings.get("model.name", ground.sides[0].recipe.model.name)
    return SweptPoint(name, settings, totals(name, model, runs, ground.metric) if runs else None)


def conclude(
    ground: Ground,
    found: Sequence[SweptPoint],
    drawn: list[Trial],
    failed: list[Missing],
    missing: list[Missing],
    table: Path | None,
) -> Sweep:
    """Rank the points, and write figure, JSON and table. Raises RunError where no run is finished."""
    higher = rises(ground.metric)
    points = sorted(found, key=partial(rank, seeds=len(ground.seeds), higher=higher))
    if not points or points[0].came_to is None:
        told = [Problem(lost.why, where=lost.run) for lost in failed]
        raise RunError(told or Problem("no run is finished yet", where=str(ground.folder)))
    best = [f"{key}={written(value)}" for key, value in points[0].settings.items()]
    result = Sweep(
        folder=ground.folder,
        recipe=ground.argument,
        task=ground.sides[0].recipe.task.name,
        metric=ground.metric,
        best_by=ground.best_by,
        higher_is_better=higher,
        seeds=list(ground.seeds),
        points=points,
        best=command("train", [ground.argument, *ground.space.fixed, *best], {"--seed": ground.seeds[0]}),
        trials=drawn,
        failed=failed,
        missing=missing,
        warnings=warnings(
            points, ground.seeds, task=ground.sides[0].recipe.task.name, listed=[axis.key for axis in ground.space.axes]
        ),
        figure=draw(points, ground.metric, ground.folder / "sweep.png"),
    )
    write_json(ground.folder / "sweep.json", {**result.to_dict(), "environment": environment()})
    if table is not None:
        there = [point.came_to for point in points if point.came_to is not None]
        write_text(table, as_csv(there, {point.name: point.settings for point in points}))
    return result
