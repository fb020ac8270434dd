"""What is compared: recipes and runs that are there become arms, each with its runs, done and still to be trained.

A user reads of them as sides: of a table, of a difference. What can be known of an arm before its training is its forecast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.artifacts.run import FINAL, TASKS, Run, open_run
from lorakit.artifacts.standing import killed_at_its_start
from lorakit.errors import RunError, UsageError, command_line, nearest
from lorakit.recipe.keys import plain_values
from lorakit.recipe.load import AnyRecipe, LoadedRecipe, load_recipe
from lorakit.recipe.overlays import read_overrides
from lorakit.recipe.problems import Problems
from lorakit.recipe.schema import CUSTOM, Recipe
from lorakit.recipe.vocabulary import SEQUENCE_FILE
from lorakit.tasks.task import higher_is_better
from lorakit.training.evaluation import of_split
from lorakit.training.optim import check_suits
from lorakit.training.update import never_trained, schedule_beside
from lorakit.workflow.experts import assemble_with_experts
from lorakit.workflow.rehearse import rehearse
from lorakit.workflow.setup import adapt
from lorakit.workflow.unfinished import FREE_ON_RESUME, changed_keys

SEEDS = (0, 1, 2, 3, 4)
NAMED_APART = {
    "run.seed": "--seeds gives the seeds",
    "run.folder": "--folder gives the folder",
    "run.name": "every recipe keeps its own name",
}


@dataclass(frozen=True)
class Entry:
    """One run of an arm. loaded: the recipe it is trained from; None for a run that was named, which stays as it is."""

    seed: int
    run: Run
    loaded: LoadedRecipe | None = None

    def summary(self) -> dict[str, Any]:
        """What the run came to. UsageError where it was never scored, because it was never trained."""
        summary = self.run.checked_summary()
        if not summary.get("last") or not summary.get("best"):
            home = self.run.path.resolve().parent.parent
            left = self.run.path.resolve().parent.name == FINAL and (home / SEQUENCE_FILE).is_file()
            road = [home] if left else [summary.get("task", "TASK"), "--run", self.run.path]
            raise UsageError(
                "this run has no scores to compare: it was made without training, so never evaluated on the way",
                where=str(self.run.path),
                valid="runs that lorakit train made" + f"; of this sequence those in {home / TASKS}" * left,
                hint=command_line("eval", *road),
            )
        return summary

    def check_same_recipe(self) -> None:
        """Raises UsageError where a run is here already, of a recipe that is another one in what matters."""
        if self.loaded is None or not self.run.path.exists():
            return
        hint = "another --folder, or another run.name in the recipe"
        is_run = self.run.recipe.is_file() or killed_at_its_start(self.run)
        if not is_run and any(self.run.path.iterdir()):
            raise UsageError("this folder is not empty, and is no run", where=str(self.run.path), hint=hint)
        if self.run.recipe.is_file() and (changed := changed_keys(self.loaded, self.run)):
            raise UsageError(
                f"the run in this folder has another recipe: it differs in {', '.join(changed)}",
                where=str(self.run.path),
                hint=hint,
            )


@dataclass
class Arm:
    """One recipe and its runs, by seed. given: whether it was named as a recipe, so that missing runs can be trained."""

    name: str
    recipe: Recipe
    entries: dict[int, Entry]
    given: bool

    @property
    def finished(self) -> list[int]:
        """The seeds whose runs are trained to their end."""
        return [seed for seed, entry in self.entries.items() if entry.run.finished]

    @property
    def path_name(self) -> str:
        """The folder of its first run: what it is called where its own name is another arm's."""
        return str(next(iter(self.entries.values())).run.path)

    def add(self, entry: Entry) -> None:
        """One more run. UsageError for a second one of a seed, but for one that would be trained: that need not be, then."""
        there = self.entries.get(entry.seed)
        if there is not None and there.loaded is None:
            both = f"{there.run.path} and {entry.run.path}"
            raise UsageError(
                f"two runs of one recipe with seed {entry.seed}: {both}", hint="name one of them: seeds are paired"
            )
        self.entries[entry.seed] = entry


def gather(
    named: Sequence[AnyRecipe],
    overrides: Sequence[str],
    seeds: Sequence[int] | None,
    folder: Path,
    *,
    offline: bool = False,
) -> list[Arm]:
    """The arms in the order in which they were named: a recipe is one, and so are runs that differ in their seed alone.

    seeds: of the recipes; five where not given; offline: for the recipes, as ``run.offline=true``. Raises UsageError or RecipeError
    for an argument that is neither, for two recipes of one name, and for runs that are not done.
    """
    if not named:
        raise UsageError("there is nothing to compare", valid="recipes and run folders", hint="lorakit list recipes")
    check_named_apart(overrides)
    arms: list[Arm] = []
    for recipe in named:
        if not isinstance(recipe, LoadedRecipe) and Path(recipe).is_dir():
            add_run(arms, open_run(Path(recipe)))
        else:
            loaded = load_recipe(recipe, overrides, offline=offline)
            add_recipe(arms, loaded, SEEDS if seeds is None else seeds, folder)
    unused = [*overrides, *([] if seeds is None else ["--seeds"])]
    if unused and not any(arm.given for arm in arms):
        raise UsageError(f"{unused[0]} is for recipes to train, and only runs are named", hint="leave it out")
    return arms


def check_named_apart(overrides: Sequence[str]) -> None:
    """Raises UsageError for a key that is each run's own."""
    for key in keys_set(overrides):
        if key in NAMED_APART:
            raise UsageError("cannot be set for all runs at once", where="command line", key=key, hint=NAMED_APART[key])


def keys_set(overrides: Sequence[str]) -> list[str]:
    """The keys that ``KEY=VALUE`` arguments set, those of a whole section among them; what cannot be read is left to who loads it."""
    return [*read_overrides(overrides, Problems()).values]


def add_recipe(arms: list[Arm], loaded: LoadedRecipe, seeds: Sequence[int], folder: Path) -> None:
    """One more arm, trained in ``folder``; runs of the same recipe that were named before are part of it."""
    name = loaded.recipe.run.name or loaded.name
    if any(arm.given and arm.name == name for arm in arms):
        raise UsageError(
            f"two recipes are called {name}",
            where=str(loaded.path),
            valid="a name for each",
            hint="run.name=ANOTHER in one of them",
        )
    arm = same_arm(arms, loaded.recipe, given=False)
    if arm is None:
        for clash in (arm for arm in arms if arm.name == name):
            clash.name = clash.path_name
        arm = Arm(name, loaded.recipe, {}, given=True)
        arms.append(arm)
    arm.name, arm.given = name, True
    for entry in to_train(loaded, name, [seed for seed in seeds if seed not in arm.entries], folder):
        arm.add(entry)


def to_train(loaded: LoadedRecipe, name: str, seeds: Iterable[int], folder: Path) -> Iterator[Entry]:
    """The runs of a recipe in ``folder``, as NAME-SEED, one for each seed."""
    for seed in seeds:
        run = replace(loaded.recipe.run, seed=seed, name=name, folder=str(folder))
        yield Entry(seed, Run(folder / f"{name}-{seed}"), replace(loaded, recipe=replace(loaded.recipe, run=run)))


def add_run(arms: list[Arm], run: Run) -> None:
    """The run's part of an arm: of the one that has the same recipe but for the seed, or of a new one."""
    if not run.finished:
        raise UsageError(
            "this run is not trained to its end", where=str(run.path), hint=command_line("train", run.path, "--resume")
        )
    recipe = load_recipe(run.recipe).recipe
    arm = same_arm(arms, recipe)
    if arm is None:
        name = recipe.run.name or run.path.name
        taken = any(other.name == name for other in arms)
        arm = Arm(str(run.path) if taken else name, recipe, {}, given=False)
        arms.append(arm)
    entry = Entry(recipe.run.seed, run)
    entry.summary()
    arm.add(entry)


def same_arm(arms: Sequence[Arm], recipe: Recipe, *, given: bool | None = None) -> Arm | None:
    """The arm of this recipe, if there is one; ``given`` asks for one that was, or was not, named as a recipe."""
    wanted = essence(recipe)
    for arm in arms:
        if given in (None, arm.given) and essence(arm.recipe) == wanted:
            return arm
    return None


def essence(recipe: Recipe) -> dict[str, Any]:
    """The keys that make a recipe another one: all but the seed, and what is free on a resume."""
    return {key: value for key, value in plain_values(recipe).items() if key not in (*FREE_ON_RESUME, "run.seed")}


def paired_order(arms: Sequence[Arm]) -> list[Entry]:
    """The runs that are not finished, seed by seed: what is done at any time can be paired."""
    seeds = dict.fromkeys(seed for arm in arms for seed in arm.entries)
    every = (arm.entries[seed] for seed in seeds for arm in arms if seed in arm.entries)
    return [entry for entry in every if not entry.run.finished]


def check_same_recipes(arms: Sequence[Arm]) -> None:
    """Raises UsageError where a run of another recipe is in a run's place."""
    for arm in arms:
        for entry in arm.entries.values():
            entry.check_same_recipe()


def check_same_data(arms: Sequence[Arm]) -> None:
    """Raises UsageError where two arms are not scored on the same rows."""
    first = arms[0]
    wanted = dict(scored_on(first.recipe))
    for arm in arms[1:]:
        own = dict(scored_on(arm.recipe))
        differing = [key for key in {**wanted, **own} if wanted.get(key) != own.get(key)]
        if differing:
            key = differing[0]
            raise UsageError(
                f"{arm.name} has {own.get(key)}, and {first.name} has {wanted.get(key)}: their scores cannot be compared",
                key=f"task.{key}",
                valid="sides that are scored on the same rows",
            )


def scored_on(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """The keys of a task that decide which rows are scored, and against what."""
    task = recipe.task
    names = ["name", "max_eval_rows", "holdout"]
    if task.name == CUSTOM:
        names += ["label", "labels", "regression", "multi_label", "label_columns", "label_separator", "validation"]
        names += ["train", "validation_fraction", "split_seed"] if task.holdout or not task.validation else []
    for name in names:
        yield name, getattr(task, name)


@dataclass(frozen=True)
class Forecast:
    """What is known of an arm before its training: the metric that chooses its best epoch, all it is scored by, its parameters.

    budget: adapter parameters allowed; head: those of the head; evaluations: how often its training is scored, None of one that is done.
    """

    name: str
    metric: str
    metrics: list[str]
    budget: int
    head: int
    evaluations: int | None = None


def forecast(arm: Arm, *, train: bool) -> Forecast | None:
    """Of a finished run where there is one; else of the recipe on its real model and data, so that its mistakes are told now.

    train: whether it is to be trained at all; where not, there is no forecast of what has no finished run.
    """
    if arm.finished:
        summaries = [arm.entries[seed].summary() for seed in arm.finished]
        names = [name for name in summaries[0]["last"] if all(name in summary["last"] for summary in summaries)]
        budget = summaries[0].get("budget", summaries[0]["adapter_parameters"])
        return Forecast(arm.name, summaries[0]["metric"], names, budget, summaries[0]["head_parameters"])
    loaded = next(iter(arm.entries.values())).loaded
    return try_out(arm.name, loaded) if train and loaded is not None else None


def try_out(name: str, loaded: LoadedRecipe) -> Forecast:
    """Put the recipe's parts together once. RecipeError, DataError and the like for what only model and data can tell."""
    loaded, parts = assemble_with_experts(loaded)
    with loaded.locating_errors():
        schedule = schedule_beside(loaded.recipe, len(parts.data.splits["train"]))
        adapted = adapt(parts, statistics=None)
        check_suits(adapted, loaded.recipe.training)
        budget = parts.budget.parameters - never_trained(loaded.recipe, adapted).total()
        head = adapted.head_parameters()
        rehearse(parts, adapted, schedule)
    task = parts.task
    names = [
        name for split in task.validation for name in of_split(dict.fromkeys(task.metrics, 0.0), split, task.validation)
    ]
    return Forecast(name, task.metrics[0], names, budget, head, len(schedule.evaluations))


def choose_metric(known: Sequence[Forecast], wanted: str | None) -> tuple[str, str]:
    """The metric to compare by, and the one, or those, that choose the best epochs."""
    if not known:
        raise RunError("no run is finished yet", hint="lorakit compare without --no-train trains them")
    first = known[0]
    common = [name for name in first.metrics if all(name in arm.metrics for arm in known)]
    choosers = list(dict.fromkeys(arm.metric for arm in known))
    if wanted is None and len(choosers) > 1:
        raise UsageError(
            "the sides choose their best epochs by different metrics: "
            + ", ".join(f"{arm.name} by {arm.metric}" for arm in known),
            valid=f"--metric {' or '.join(common)}" if common else "sides of one metric",
        )
    chosen = wanted or first.metric
    if chosen not in common:
        hint = nearest(chosen, common)
        raise UsageError(f"the runs are not scored by '{chosen}'", where="--metric", valid=", ".join(common), hint=hint)
    return chosen, " or ".join(choosers)


def rises(metric: str) -> bool:
    """Whether a larger value is the better one, of a metric that may name its split."""
    return higher_is_better(metric.partition("/")[0])
