"""``lorakit analyze --intrinsic``: in how small a random subspace a task can be learnt (Aghajanyan et al. 2021).

The recipe is trained in full, and in random subspaces of growing dimension (adapter method `intrinsic`), every side at a rate of its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.artifacts.files import write_json, write_text
from lorakit.artifacts.run import environment
from lorakit.errors import RecipeError, UsageError, nearest
from lorakit.recipe.load import AnyRecipe, LoadedRecipe, load_recipe
from lorakit.recipe.schema import AdapterSection, SearchSection
from lorakit.reporting.figures import as_svg, save
from lorakit.reporting.intrinsic import (
    IntrinsicCurve,
    Subspace,
    aim_of,
    intrinsic_facts,
    intrinsic_figure,
    intrinsic_table,
    intrinsic_words,
    smallest,
)
from lorakit.reporting.page import Page, Picture, render
from lorakit.reporting.summary import Passage, listed
from lorakit.reporting.tables import counted
from lorakit.result import Result
from lorakit.tasks.baselines import FROZEN, MAJORITY
from lorakit.workflow.experiments.arms import (
    Arm,
    Forecast,
    check_named_apart,
    choose_metric,
    forecast,
    keys_set,
    paired_order,
    rises,
    to_train,
)
from lorakit.workflow.experiments.elsewhere import check_engine, trainer
from lorakit.workflow.experiments.request import Request, called_with, check_alone
from lorakit.workflow.experiments.totals import as_csv, side_by_side
from lorakit.workflow.experiments.workers import Missing, no_finished_run

FULL = "full"
KINDS = {"said": "true", "did": "false"}
"""What subspaces are called -> the method's option ``per_layer``: with a scalar for every layer, and without."""
DIMENSIONS = (32, 128, 512, 2048, 8192)
SEEDS = (0, 1, 2)
RATES, FULL_RATES = (0.01, 0.03, 0.1), (3e-5, 1e-4, 3e-4)
HELD_OUT = 0.2
"""The share of the training rows that rates are chosen by."""
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


@dataclass(frozen=True)
class IntrinsicDimension(Result):
    """In how small a subspace a task can be learnt.

    Attributes:
        folder: where the runs are, and intrinsic.json.
        curve: the scores, in subspaces and in full.
        d90: kind -> the smallest dimension whose mean is 90 % of full fine-tuning's; None where none is.
        d90_of_gain: the same of what full fine-tuning gains over the frozen features; empty where it gains nothing.
        d90_by_seed: kind -> seed -> d90 of that seed's runs alone.
        rates: side -> the learning rate that was chosen for it, or given.
        failed: runs whose training failed.
        missing: runs that are not there yet.
        figure: the curve as PNG.
        page: all of it as one page.
        summary: the page in plain words.
    """

    folder: Path
    curve: IntrinsicCurve
    d90: dict[str, int | None]
    d90_of_gain: dict[str, int | None]
    d90_by_seed: dict[str, dict[int, int | None]]
    rates: dict[str, float]
    failed: list[Missing]
    missing: list[Missing]
    figure: Path
    page: Path
    summary: list[Passage]


@called_with(IntrinsicRequest)
def intrinsic_dimension(asked: IntrinsicRequest) -> IntrinsicDimension:
    """Measure a task's intrinsic dimension: train in random subspaces of growing dimension, and in full (arXiv 2012.13255, section 3).

    theta = theta_0 + P z, with z of d numbers and P a fixed random projection, and with ``said`` a trained scalar for every layer, which
    counts among the d. The head trains beside it, and the frozen features stand for d = 0. Adapter and search of the recipe have no part in
    this. What is trained already is not trained again, and a failed training does not stop the others.

    Args:
        recipe: a shipped name, a file, a run folder, or a loaded recipe.
        overrides: ``KEY=VALUE`` for all sides; not of adapter, search and learning rate, in which they differ.
        dimensions: d, from the number of layers up; 32, 128, 512, 2048, 8192 where not given.
        kinds: ``said``, ``did`` or both: with a scalar for every layer, and without.
        lr: learning rates of the subspaces; of several each side takes the one that is best on a fifth of the training rows, held out
            from trials with the first seed.
        full_lr: the same of full fine-tuning.
        seeds: every side is trained with each; 0, 1 and 2 where not given.
        folder: where the runs are; runs/intrinsic-NAME where not given.
        metric: another one of the task's than its first.
        wait: for what other workers on the folder train.
        table: a csv file to write, a line for each run.
        offline: never touch the network.
        workers: processes that share the runs, on this machine this one among them; one for each GPU where not given, else one.
        on: ``ray`` or ``slurm``, which starts the workers on its machines; this process waits, and trains nothing.
        slurm: ``KEY=VALUE`` each of its jobs.
        watch: makes the hook that shows a training's progress, as a context.

    Returns:
        The curve and its d90, in intrinsic.json, as a figure and as a page in the folder.

    Raises:
        UsageError: for dimensions and kinds that are none; RecipeError for a wrong recipe, before anything is trained.
        RunError: where no run is finished in the end.
        Interrupted: after a polite stop; the same call goes on.

    Example:
        >>> lorakit.intrinsic_dimension("mrpc-lora", dimensions=[64, 256, 1024]).d90["said"]     # doctest: +SKIP
    """
    folder, sides = resolve(asked)
    seeds = SEEDS if asked.seeds is None else asked.seeds
    trials = {side.name: side.trials(seeds[0], folder) for side in sides}
    check_same_recipes([*(arm for own in trials.values() for arm in own.values())])
    for side in sides:
        side.check_begun(seeds, folder)
    known = [found for side in sides if (found := side.foreseen(seeds, folder)) is not None]
    metric, _ = choose_metric(known, asked.metric)
    if not rises(metric):
        what = f"90 % of '{metric}' is no aim: lower is better"
        raise UsageError(what, where="--metric", valid="a metric of which more is better")
    total = sum(map(len, trials.values())) + len(sides) * len(seeds)
    with trainer(intrinsic_dimension, asked, folder, total, goes_on(asked)) as train:
        failed, missing = train(paired_order([arm for own in trials.values() for arm in own.values()]), total)
        awaited = {lost.run for lost in missing}
        rates = {side: rate for side in sides if (rate := side.best(trials[side.name], metric, awaited)) is not None}
        arms = {side: side.arm(rate, seeds, folder) for side, rate in rates.items()}
        check_same_recipes([*arms.values()])
        again = train(paired_order([*arms.values()]), total)
    result = conclude(folder, metric, sides, arms, rates, [*failed, *again[0]], [*missing, *again[1]])
    if asked.table is not None:
        write_text(Path(asked.table), as_csv(side_by_side([*arms.values()], metric)))
    return result


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
        held_out, rates = f"task.holdout={HELD_OUT}", self.rates if len(self.rates) > 1 else ()
        return {
            rate: self.trained_as(f"{self.name}-lr-{rate:g}", (f"training.lr={rate!r}", held_out), [seed], folder)
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


def check_same_recipes(arms: Sequence[Arm]) -> None:
    """Raises UsageError where a run of another recipe is in a run's place."""
    for arm in arms:
        for entry in arm.entries.values():
            entry.check_same_recipe()


def goes_on(asked: IntrinsicRequest) -> str:
    """The command that goes on with the measurement, where there is one that asks for all of it."""
    if asked.table is not None or asked.on is not None:
        return "the same call again"
    more = {"--dimensions": asked.dimensions, "--kinds": asked.kinds, "--lr": asked.lr, "--full-lr": asked.full_lr}
    return asked.again("analyze", ["--intrinsic", asked.recipe], asked.overrides, more)


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
    """The recipe with nothing of its own adapter, search and rate."""
    places = {key: place for key, place in loaded.places.items() if not f"{key}.".startswith(("adapter.", "search."))}
    training = replace(loaded.recipe.training, lr=None)
    recipe = replace(loaded.recipe, adapter=AdapterSection(), search=SearchSection(), training=training)
    return load_recipe(replace(loaded, recipe=recipe, places=places, folder=None), overrides)


def conclude(
    folder: Path,
    metric: str,
    sides: Sequence[Side],
    arms: Mapping[Side, Arm],
    rates: Mapping[Side, float],
    failed: list[Missing],
    missing: list[Missing],
) -> IntrinsicDimension:
    """What the runs that are there come to; writes figure, page and JSON."""
    done = {side: arm for side, arm in arms.items() if arm.finished}
    full = next((arm for side, arm in done.items() if side.kind == FULL), None)
    if full is None or len(done) == 1:
        raise no_finished_run(failed, folder)
    scores = {seed: score_of(full, seed, metric) for seed in full.finished}
    subspaces = [
        Subspace(side.kind, side.dimension, {seed: score_of(arm, seed, metric) for seed in arm.finished})
        for side, arm in done.items()
        if side.kind != FULL
    ]
    summaries = [full.entries[seed].summary() for seed in full.finished]
    curve = IntrinsicCurve(
        task=full.recipe.task.name,
        metric=metric,
        full=scores,
        full_parameters=summaries[0]["adapter_parameters"],
        head_parameters=summaries[0]["head_parameters"],
        majority=baseline_of(summaries, MAJORITY, metric),
        frozen=baseline_of(summaries, FROZEN, metric),
        subspaces=subspaces,
        absent=[(side.kind, side.dimension) for side in sides if side.kind != FULL and side not in done],
    )
    of_kind = {side.kind: curve.of(side.kind) for side in sides if side.kind != FULL}
    gain = curve.aim_of_gain
    chosen = {side: rates[side] for side in done}
    found = IntrinsicDimension(
        folder=folder,
        curve=curve,
        d90={kind: smallest(own, curve.aim) for kind, own in of_kind.items()},
        d90_of_gain={} if gain is None else {kind: smallest(own, gain) for kind, own in of_kind.items()},
        d90_by_seed={
            kind: {seed: smallest(own, aim_of(score), seed) for seed, score in scores.items()}
            for kind, own in of_kind.items()
        },
        rates={side.name: rate for side, rate in chosen.items()},
        failed=failed,
        missing=missing,
        figure=folder / "intrinsic.png",
        page=folder / "intrinsic.html",
        summary=intrinsic_words(curve, rate_words(chosen)),
    )
    write_page(found, full.recipe.model.name)
    write_json(folder / "intrinsic.json", {**found.to_dict(), "environment": environment()})
    return found


def rate_words(chosen: Mapping[Side, float]) -> str:
    """How the rates were chosen, and which of them are at an end of what was tried; empty where all were given."""
    tried = {side: rate for side, rate in chosen.items() if len(side.rates) > 1}
    if not tried:
        return ""
    ends = [side.name for side, rate in tried.items() if rate in (min(side.rates), max(side.rates))]
    told = f"Rates were chosen for {counted(len(tried), 'side')} by a fifth of the training rows, with one seed"
    return told + (f"; those of {listed(ends)} are the lowest or the highest that was tried." if ends else ".")


def score_of(arm: Arm, seed: int, metric: str) -> float:
    """What a run came to after its last epoch."""
    return float(arm.entries[seed].summary()["last"][metric])


def baseline_of(summaries: Sequence[dict[str, Any]], name: str, metric: str) -> float | None:
    """The mean of a baseline over runs; None where a run has none."""
    found = [
        baseline["scores"].get(metric)
        for summary in summaries
        for baseline in summary.get("baselines", [])
        if baseline["name"] == name
    ]
    return None if not found or None in found else sum(found) / len(found)


def write_page(found: IntrinsicDimension, model: str) -> None:
    """The figure, and the page."""
    curve = found.curve
    drawn = intrinsic_figure(curve)
    save(drawn.figure, found.figure)
    page = Page(
        title=f"Intrinsic dimension of {curve.task}",
        subtitle=f"{model}, {curve.metric} after the last epoch",
        facts=intrinsic_facts(curve),
        passages=found.summary,
        parts=[
            Picture(drawn.title, as_svg(drawn.figure, drawn.name), drawn.alt, drawn.caption),
            intrinsic_table(curve),
        ],
        command="lorakit analyze --intrinsic",
    )
    write_text(found.page, render(page))
