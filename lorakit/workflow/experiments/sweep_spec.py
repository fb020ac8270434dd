"""What a sweep is of, checked before anything is trained: its points, their recipes on the real model and data, and the metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TypeVar

from lorakit.errors import LorakitError, Problem, UsageError, nearest
from lorakit.recipe.load import AnyRecipe, LoadedRecipe, load_recipe
from lorakit.recipe.overlays import COMMAND_LINE
from lorakit.workflow.experiments.arms import (
    Arm,
    Forecast,
    check_named_apart,
    check_same_data,
    check_same_recipes,
    choose_metric,
    forecast,
    to_train,
)
from lorakit.workflow.experiments.elsewhere import check_engine
from lorakit.workflow.experiments.grid import Point, Space, read_space
from lorakit.workflow.experiments.request import Request, check_alone

T = TypeVar("T")

SEEDS = (0, 1, 2)
HOLDOUT = "task.holdout"
ASHA, HYPERBAND = "asha", "hyperband"


@dataclass(frozen=True)
class SweepRequest(Request):
    """Arguments of ``sweep`` and ``plan_sweep``; see there."""

    recipe: AnyRecipe
    overrides: Sequence[str] = ()
    _: KW_ONLY
    trials: int | None = None
    storage: str | None = None
    holdout: float | None = None
    prune: str | None = None


@dataclass(frozen=True)
class SweepSpec:
    """A sweep, checked.

    points: of the grid, or the ends of the ranges that trials draw from; arms and forecasts: of the points, in their order;
    best_by: the metric that chooses the best epochs.
    """

    asked: SweepRequest
    name: str
    space: Space
    seeds: Sequence[int]
    folder: Path
    points: list[Point]
    arms: list[Arm]
    forecasts: list[Forecast]
    metric: str
    best_by: str

    @property
    def task(self) -> str:
        """The task's name, the same at all points."""
        return self.arms[0].recipe.task.name

    @property
    def evaluations(self) -> int:
        """How often a training is scored, as far as those that are done already tell where all are."""
        known = [forecast.evaluations for forecast in self.forecasts if forecast.evaluations is not None]
        runs = [arm.entries[seed].run for arm in self.arms for seed in arm.finished]
        return known[0] if known else max(sum("scores" in record for record in run.metrics()) for run in runs)

    def arm(self, point: Point) -> Arm:
        """The recipe at ``point``, with a run for every seed."""
        return arm_at(point, recipe_at(point, self.asked, self.space), self.name, self.seeds, self.folder)

    def of_all_rows(self) -> list[str]:
        """KEY=VALUE of every point, with all training rows trained on and the validation rows scored."""
        fixed = [text for text in self.space.fixed if text.partition("=")[0].strip() != HOLDOUT]
        own = load_recipe(self.asked.recipe, fixed, offline=self.asked.offline).recipe.task.holdout
        return fixed if own is None else [*fixed, f"{HOLDOUT}=null"]

    def again(self) -> str:
        """The command that goes on with the sweep."""
        asked = self.asked
        more = {
            "--trials": asked.trials,
            "--storage": asked.storage,
            "--holdout": asked.holdout,
            "--prune": asked.prune,
        }
        return asked.again("sweep", [asked.recipe], asked.overrides, more)


def resolve_sweep(asked: SweepRequest) -> SweepSpec:
    """Read what is asked for and check all of it, on the real model and data. Raises UsageError or RecipeError with every mistake."""
    check_alone()
    check_engine(asked)
    check_named_apart(asked.overrides)
    held_out = [] if asked.holdout is None else [f"{HOLDOUT}={asked.holdout:g}"]
    space = read_space([*asked.overrides, *held_out])
    check_pruning(asked)
    check_trials(space, asked.trials, asked.storage)
    points = space.points() if asked.trials is None else space.corners()
    recipes = at_all(points, lambda point: recipe_at(point, asked, space))
    name = recipes[0].recipe.run.name or recipes[0].name
    seeds = SEEDS if asked.seeds is None else asked.seeds
    folder = Path(f"runs/sweep-{name}" if asked.folder is None else asked.folder)
    arms = [arm_at(point, loaded, name, seeds, folder) for point, loaded in zip(points, recipes, strict=True)]
    check_same_data(arms)
    check_same_recipes(arms)
    named = {arm.name: arm for arm in arms}
    foreseen = at_all(points, lambda point: forecast(named[point.named(name)], train=True))
    forecasts = [known for known in foreseen if known is not None]
    if asked.prune is not None:
        check_evaluations(asked.prune, [known.evaluations for known in forecasts if known.evaluations is not None])
    metric, best_by = choose_metric(forecasts, asked.metric)
    return SweepSpec(asked, name, space, seeds, folder, points, arms, forecasts, metric, best_by)


def recipe_at(point: Point, asked: SweepRequest, space: Space) -> LoadedRecipe:
    """The recipe at ``point``."""
    return load_recipe(asked.recipe, [*space.fixed, *point.overrides], offline=asked.offline)


def arm_at(point: Point, loaded: LoadedRecipe, base: str, seeds: Sequence[int], folder: Path) -> Arm:
    """A recipe at ``point`` with a run for every seed; base: what the names of all points begin with."""
    name = point.named(base)
    entries = {entry.seed: entry for entry in to_train(loaded, name, seeds, folder)}
    return Arm(name, loaded.recipe, entries, given=True)


def check_pruning(asked: SweepRequest) -> None:
    """Raises UsageError where trials cannot be pruned: of a grid, by validation rows, by a rule that is none."""
    if asked.prune is None:
        return
    if asked.prune not in (rules := (ASHA, HYPERBAND)):
        hint = nearest(asked.prune, rules)
        raise UsageError(f"'{asked.prune}' is no way of pruning", where="--prune", valid=", ".join(rules), hint=hint)
    if asked.trials is None:
        raise UsageError("is for drawn trials, and a grid trains all of its points", where="--prune", hint="--trials N")
    if asked.holdout is None:
        raise UsageError(
            "needs rows held out of the training rows: which trials go on is a choice, and the validation rows must have no part in one",
            where="--prune",
            hint="--holdout 0.2",
        )


def check_evaluations(rule: str, numbers: Sequence[int]) -> None:
    """Raises UsageError where trainings that are scored so often cannot be pruned: once is at their end, and all are compared."""
    if rule == HYPERBAND and numbers and 2 <= min(numbers) < 3:
        what = "trainings that are scored twice are in one bracket of hyperband, which is asha"
        raise UsageError(what, where="--prune", hint="evaluation.every=0.25, or --prune asha")
    if numbers and min(numbers) < 2:
        what = "a training is scored once, at its end, so that nothing can be pruned before"
        raise UsageError(what, where="--prune", hint="evaluation.every=0.25, or more training.epochs")
    if len(set(numbers)) > 1:
        raise UsageError(
            f"the trainings are scored {min(numbers)} to {max(numbers)} times, and pruning compares the same evaluation of all",
            where="--prune",
            valid="points that are scored equally often",
        )


def check_trials(space: Space, trials: int | None, storage: str | None) -> None:
    """Raises UsageError for ranges and a storage without trials, and for trials without Optuna or without anything to draw."""
    if trials is None:
        if storage is not None:
            raise UsageError("is for --trials: workers share a grid through its folder", where="--storage")
        if space.ranges:
            valid, hint = "KEY=VALUE,VALUE for a grid", "--trials N, which draws from it N times"
            raise UsageError(
                [
                    Problem(f"{span} is a range, and a grid wants values", COMMAND_LINE, span.key, valid, hint)
                    for span in space.ranges
                ]
            )
        return
    if trials < 1:
        raise UsageError(f"{trials} is not a number of trials", where="--trials", valid="a whole number from 1")
    if not space.keys:
        raise UsageError("there is nothing to draw", where="--trials", valid="KEY=LOW..HIGH or KEY=VALUE,VALUE")
    try:
        from optuna.storages import RetryHeartbeatStaleTrialCallback  # noqa: F401 - is it there, and new enough?
    except ImportError:
        hint = "pip install optuna --upgrade"
        raise UsageError("needs Optuna 4.9 or newer, which is not installed", where="--trials", hint=hint) from None


def at_all(points: Sequence[Point], work: Callable[[Point], T]) -> list[T]:
    """``work`` at every point. Raises one error with the mistakes of all, each once and with the points where it is one."""
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
