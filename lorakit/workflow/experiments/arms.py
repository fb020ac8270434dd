"""What is compared: recipes and runs that are there become sides, each with its runs, done and still to be trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.artifacts.run import Run, open_run
from lorakit.errors import UsageError
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.schema import CUSTOM, Recipe
from lorakit.workflow.setup import flat
from lorakit.workflow.train import FREE_ON_RESUME, changed_keys

SEEDS = (0, 1, 2, 3, 4)
NAMED_APART = {
    "run.seed": "--seeds gives the seeds",
    "run.folder": "--folder gives the folder",
    "run.name": "every recipe keeps its own name",
}


@dataclass(frozen=True)
class Entry:
    """One run of a side. loaded: the recipe it is trained from; None for a run that was named, which stays as it is."""

    seed: int
    run: Run
    loaded: LoadedRecipe | None = None

    def summary(self) -> dict[str, Any]:
        """What the run came to. UsageError where it was never scored, because it was never trained."""
        summary = self.run.checked_summary()
        if not summary.get("last") or not summary.get("best"):
            raise UsageError(
                "this run has no scores to compare: it was made without training, so never evaluated on the way",
                where=str(self.run.path),
                valid="runs that lorakit train made",
                hint=f"lorakit eval {summary.get('task', 'TASK')} --run {self.run.path}",
            )
        return summary

    def check_same_recipe(self) -> None:
        """Raises UsageError where a run is here already, of a recipe that is another one in what matters."""
        if self.loaded is None or not self.run.path.exists():
            return
        hint = "another --folder, or another run.name in the recipe"
        if not self.run.recipe.is_file() and any(self.run.path.iterdir()):
            raise UsageError("there is something here that is no run", where=str(self.run.path), hint=hint)
        if self.run.recipe.is_file() and (changed := changed_keys(self.loaded, self.run)):
            raise UsageError(
                f"the run that is here is of another recipe; it differs in {', '.join(changed)}",
                where=str(self.run.path),
                hint=hint,
            )


@dataclass
class Side:
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
        """The folder of its first run: what it is called where its own name is another side's."""
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
    arguments: Sequence[str],
    overrides: Sequence[str],
    seeds: Sequence[int] | None,
    folder: Path,
    *,
    offline: bool = False,
) -> list[Side]:
    """The sides in the order in which they were named: a recipe is one, and so are runs that differ in their seed alone.

    seeds: of the recipes; five where not given. Raises UsageError or RecipeError for an argument that is neither, for two recipes of
    one name, and for runs that are not done.
    """
    if not arguments:
        raise UsageError("there is nothing to compare", valid="recipes and run folders", hint="lorakit list recipes")
    check_named_apart(overrides)
    sides: list[Side] = []
    for argument in arguments:
        if Path(argument).is_dir():
            add_run(sides, open_run(Path(argument)))
        else:
            settings = [*overrides, *(["run.offline=true"] if offline else [])]
            add_recipe(sides, argument, settings, SEEDS if seeds is None else seeds, folder)
    unused = [*overrides, *([] if seeds is None else ["--seeds"])]
    if unused and not any(side.given for side in sides):
        raise UsageError(f"{unused[0]} is for recipes to train, and only runs are named", hint="leave it out")
    return sides


def check_named_apart(overrides: Sequence[str]) -> None:
    """Raises UsageError for a key that is each run's own."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in NAMED_APART:
            raise UsageError("cannot be set for all runs at once", where="command line", key=key, hint=NAMED_APART[key])


def add_recipe(sides: list[Side], argument: str, overrides: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    """One more side, trained in ``folder``; runs of the same recipe that were named before are part of it."""
    loaded = load_recipe(argument, overrides)
    name = loaded.recipe.run.name or loaded.name
    if any(side.given and side.name == name for side in sides):
        raise UsageError(
            f"two recipes are called {name}", where=argument, valid="a name each", hint="run.name in one of the files"
        )
    side = same_side(sides, loaded.recipe, given=False)
    if side is None:
        for clash in (side for side in sides if side.name == name):
            clash.name = clash.path_name
        side = Side(name, loaded.recipe, {}, given=True)
        sides.append(side)
    side.name, side.given = name, True
    for entry in to_train(loaded, name, [seed for seed in seeds if seed not in side.entries], folder):
        side.add(entry)


def to_train(loaded: LoadedRecipe, name: str, seeds: Iterable[int], folder: Path) -> Iterator[Entry]:
    """The runs of a recipe in ``folder``, as NAME-SEED, one for each seed."""
    for seed in seeds:
        run = replace(loaded.recipe.run, seed=seed, name=name, folder=str(folder))
        yield Entry(seed, Run(folder / f"{name}-{seed}"), replace(loaded, recipe=replace(loaded.recipe, run=run)))


def add_run(sides: list[Side], run: Run) -> None:
    """The run's part of a side: of the one that has the same recipe but for the seed, or of a new one."""
    if not run.finished:
        raise UsageError(
            "this run is not trained to its end", where=str(run.path), hint=f"lorakit train {run.path} --resume"
        )
    recipe = load_recipe(run.recipe).recipe
    side = same_side(sides, recipe)
    if side is None:
        name = recipe.run.name or run.path.name
        taken = any(other.name == name for other in sides)
        side = Side(str(run.path) if taken else name, recipe, {}, given=False)
        sides.append(side)
    entry = Entry(recipe.run.seed, run)
    entry.summary()
    side.add(entry)


def same_side(sides: Sequence[Side], recipe: Recipe, *, given: bool | None = None) -> Side | None:
    """The side of this recipe, if there is one; ``given`` asks for one that was, or was not, named as a recipe."""
    wanted = essence(recipe)
    for side in sides:
        if given in (None, side.given) and essence(side.recipe) == wanted:
            return side
    return None


def essence(recipe: Recipe) -> dict[str, Any]:
    """The keys that make a recipe another one: all but the seed, and what is free on a resume."""
    return {key: value for key, value in flat(asdict(recipe)) if key not in (*FREE_ON_RESUME, "run.seed")}


def paired_order(sides: Sequence[Side]) -> list[Entry]:
    """The runs that are not finished, seed by seed: what is done at any time can be paired."""
    seeds = dict.fromkeys(seed for side in sides for seed in side.entries)
    every = (side.entries[seed] for seed in seeds for side in sides if seed in side.entries)
    return [entry for entry in every if not entry.run.finished]


def check_same_data(sides: Sequence[Side]) -> None:
    """Raises UsageError where two sides are not scored on the same rows."""
    first = sides[0]
    wanted = dict(scored_on(first.recipe))
    for side in sides[1:]:
        own = dict(scored_on(side.recipe))
        differing = [key for key in {**wanted, **own} if wanted.get(key) != own.get(key)]
        if differing:
            key = differing[0]
            raise UsageError(
                f"{side.name} has {own.get(key)}, and {first.name} has {wanted.get(key)}: their scores cannot be compared",
                key=f"task.{key}",
                valid="sides that are scored on the same rows",
            )


def scored_on(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """The keys of a task that decide which rows are scored, and against what."""
    task = recipe.task
    names = ["name", "max_eval_rows"]
    if task.name == CUSTOM:
        names += ["label", "labels", "regression", "validation"]
        names += [] if task.validation else ["train", "validation_fraction"]
    for name in names:
        yield name, getattr(task, name)
