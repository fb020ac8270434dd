"""What ``intrinsic_dimension`` trains: one side in full and one a subspace, each at the best of several rates, read and checked."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

from lorakit.errors import RecipeError, UsageError, nearest
from lorakit.recipe.load import AnyRecipe, LoadedRecipe, load_recipe
from lorakit.recipe.schema import AdapterSection, SearchSection
from lorakit.tasks.baselines import FROZEN, MAJORITY
from lorakit.workflow.experiments.arms import (
    Arm,
    Forecast,
    check_named_apart,
    check_same_recipes,
    forecast,
    keys_set,
    to_train,
)
from lorakit.workflow.experiments.elsewhere import check_engine
from lorakit.workflow.experiments.request import Request, check_alone

FULL = "full"
KINDS = {"said": "true", "did": "false"}
"""What subspaces are called -> the method's option ``per_layer``: with a scalar for every layer, and without."""
DIMENSIONS = (32, 128, 512, 2048, 8192)
SEEDS = (0, 1, 2)
RATES, FULL_RATES = (0.01, 0.03, 0.1), (3e-5, 1e-4, 3e-4)
HELD_OUT = 0.2
"""The share of the training rows that rates are chosen by."""
HEAD_RATE = 1e-3
"""Of the head on every side, where the recipe has none: it is no part of what they differ in."""
OWN = ("adapter.", "search.", "training.lr")
"""Keys that the sides of the measurement differ in."""


@dataclass(frozen=True)
class IntrinsicRequest(Request):
    """Arguments of ``intrinsic_dimension``; see there."""

    recipe: AnyRecipe
    overrides: Sequence[str] = ()
    _: KW_ONLY
    dimensions: Sequence[int] | None = None
    kinds: Sequence[str] = tuple(KINDS)
    lr: Sequence[float] = RATES
    full_lr: Sequence[float] = FULL_RATES

    def __post_init__(self) -> None:
        """Take numpy's numbers as Python's, as a worker and a recipe are told them. Raises UsageError without seeds."""
        super().__post_init__()
        for name in ("dimensions", "lr", "full_lr", "seeds"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, [getattr(value, "item", lambda own=value: own)() for value in given])


@dataclass(frozen=True, eq=False)
class Side:
    """What is trained alike with every seed.

    name: of its runs, but for the seed; kind: full, said or did; dimension: d, 0 of full; loaded: its recipe, but for the rate; rates: to
    choose from.
    """

    name: str
    kind: str
    dimension: int
    loaded: LoadedRecipe
    rates: tuple[float, ...]

    def arm(self, rate: float, seeds: Sequence[int], folder: Path) -> Arm:
        """Its runs at a rate."""
        return self.trained_as(self.name, (f"training.lr={rate!r}",), seeds, folder)

    def trials(self, seed: int, folder: Path) -> dict[float, Arm]:
        """Rate -> a run on all training rows but those that rates are chosen by; none where there is nothing to choose."""
        common, rates = (
            (f"task.holdout={HELD_OUT}", "evaluation.baselines=[]"),
            self.rates if len(self.rates) > 1 else (),
        )
        return {
            rate: self.trained_as(f"{self.name}-lr-{rate:g}", (f"training.lr={rate!r}", *common), [seed], folder)
            for rate in rates
        }

    def trained_as(self, name: str, settings: Sequence[str], seeds: Sequence[int], folder: Path) -> Arm:
        """Its recipe with these settings."""
        loaded = load_recipe(self.loaded, [*settings, f"run.name={name}"])
        return Arm(
            name, loaded.recipe, {entry.seed: entry for entry in to_train(loaded, name, seeds, folder)}, given=True
        )

    def foreseen(self, seeds: Sequence[int], folder: Path) -> Forecast | None:
        """What is known of it before its training. UsageError for a dimension that the model's matrices do not have."""
        try:
            return forecast(self.arm(self.rates[0], seeds, folder), train=True)
        except RecipeError as error:
            wrong = next((problem for problem in error.problems if problem.key == "adapter.rank"), None)
            if wrong is None:
                raise
            hint = "--kinds did, which has no scalars" if wrong.hint else ""
            raise UsageError(wrong.what, where="--dimensions", valid=wrong.valid, hint=hint) from None

    def best(self, trials: Mapping[float, Arm], metric: str, awaited: Collection[str] = ()) -> float | None:
        """The rate whose trial has the highest score; None where no trial is finished, or one is among the ``awaited`` runs."""
        if not trials:
            return self.rates[0]
        if any(str(entry.run.path) in awaited for arm in trials.values() for entry in arm.entries.values()):
            return None
        plain = metric.partition("/")[0]  # held-out rows are one split, whatever the task has
        scores = {rate: score_of(arm, seed, plain) for rate, arm in trials.items() for seed in arm.finished}
        return max(scores, key=scores.__getitem__) if scores else None

    def check_begun(self, seeds: Sequence[int], folder: Path) -> None:
        """Raises UsageError where what is there of its runs can be of none of its rates."""
        differing: UsageError | None = None
        for rate in self.rates:
            try:
                check_same_recipes([self.arm(rate, seeds, folder)])
            except UsageError as error:
                differing = differing or error
            else:
                return
        if differing is not None:
            raise differing


def resolve(asked: IntrinsicRequest) -> tuple[Path, list[Side]]:
    """The folder, and the sides, the one that is trained in full first; checked."""
    check_alone()
    check_engine(asked)
    dimensions = DIMENSIONS if asked.dimensions is None else asked.dimensions
    check_request(asked, dimensions)
    loaded = load_recipe(asked.recipe, asked.overrides, offline=asked.offline)
    several = "--lr" if len(asked.lr) > 1 else "--full-lr" if len(asked.full_lr) > 1 else ""
    if loaded.recipe.task.holdout is not None and several:
        what = "rates are chosen by training rows that are held out, and this recipe holds rows out to be scored by"
        raise UsageError(what, where=several, valid="one rate with task.holdout", hint="task.holdout=null")
    name = loaded.recipe.run.name or loaded.name
    folder = Path(f"runs/intrinsic-{name}" if asked.folder is None else asked.folder)
    given = "evaluation.baselines" in keys_set(asked.overrides)
    names = "[]" if loaded.recipe.task.regression else f"[{MAJORITY}, {FROZEN}]"
    whole = bare(loaded, "adapter.method=full", *([] if given else [f"evaluation.baselines={names}"]))
    sides = [Side(f"{name}-{FULL}", FULL, 0, whole, tuple(asked.full_lr))]
    for kind in asked.kinds:
        for dimension in dimensions:
            options = f"adapter.options={{per_layer: '{KINDS[kind]}'}}"
            own = bare(
                loaded, "adapter.method=intrinsic", f"adapter.rank={dimension}", options, "evaluation.baselines=[]"
            )
            sides.append(Side(f"{name}-{kind}-{dimension}", kind, dimension, own, tuple(asked.lr)))
    return folder, sides


def check_request(asked: IntrinsicRequest, dimensions: Sequence[int]) -> None:
    """Raises UsageError for dimensions, kinds and overrides that make no measurement."""
    check_named_apart(asked.overrides)
    for key in keys_set(asked.overrides):
        if key.startswith(OWN):
            hint = "--lr and --full-lr" if key.startswith("training") else "leave it out: a subspace is of all matrices"
            raise UsageError(
                "is what the sides of this measurement differ in", where="command line", key=key, hint=hint
            )
    if not dimensions or len(set(dimensions)) < len(dimensions) or min(dimensions) < 1:
        told = ",".join(map(str, dimensions))
        raise UsageError(f"'{told}' are no dimensions", where="--dimensions", valid="such as 32,128,512, each once")
    for kind in asked.kinds:
        if kind not in KINDS:
            valid = ", ".join(KINDS)
            raise UsageError(f"there is no subspace '{kind}'", where="--kinds", valid=valid, hint=nearest(kind, KINDS))
    for option, rates in (("--lr", asked.lr), ("--full-lr", asked.full_lr)):
        if not rates or len(set(rates)) < len(rates) or not all(0 < rate < math.inf for rate in rates):
            told = ",".join(map(str, rates))
            raise UsageError(f"'{told}' are no learning rates", where=option, valid="such as 0.01,0.03, each once")
    if not asked.kinds or len(set(asked.kinds)) < len(asked.kinds):
        raise UsageError("names a kind of subspace twice, or none", where="--kinds", valid=",".join(KINDS))


def bare(loaded: LoadedRecipe, *overrides: str) -> LoadedRecipe:
    """The recipe with nothing of its own adapter, search and rate, and a rate of the head that all sides have."""
    places = {key: place for key, place in loaded.places.items() if not f"{key}.".startswith(("adapter.", "search."))}
    given = loaded.recipe.training
    training = replace(given, lr=None, head_lr=HEAD_RATE if given.head_lr is None else given.head_lr)
    recipe = replace(loaded.recipe, adapter=AdapterSection(), search=SearchSection(), training=training)
    return load_recipe(replace(loaded, recipe=recipe, places=places, folder=None), overrides)


def score_of(arm: Arm, seed: int, metric: str) -> float:
    """What a run came to after its last epoch."""
    return float(arm.entries[seed].summary()["last"][metric])
