"""``lorakit analyze --intrinsic``: in how small a random subspace a task can be learnt (Aghajanyan et al. 2021).

The recipe is trained in full, and in random subspaces of growing dimension (adapter method `intrinsic`), every side at a rate of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.artifacts.files import write_json, write_text
from lorakit.artifacts.run import environment
from lorakit.errors import UsageError, nearest
from lorakit.recipe.load import AnyRecipe, LoadedRecipe, load_recipe
from lorakit.recipe.schema import AdapterSection, SearchSection
from lorakit.reporting.figures import as_svg, save
from lorakit.reporting.intrinsic import (
    SHARE,
    IntrinsicCurve,
    Subspace,
    intrinsic_facts,
    intrinsic_figure,
    intrinsic_table,
    intrinsic_words,
    smallest,
)
from lorakit.reporting.page import Page, Picture, render
from lorakit.reporting.summary import Passage
from lorakit.result import Result
from lorakit.tasks.baselines import FROZEN, MAJORITY
from lorakit.workflow.experiments.arms import (
    Arm,
    check_named_apart,
    choose_metric,
    forecast,
    gather,
    paired_order,
    rises,
)
from lorakit.workflow.experiments.elsewhere import check_engine, trainer
from lorakit.workflow.experiments.request import Request, called_with, check_alone
from lorakit.workflow.experiments.workers import Missing, no_finished_run

KINDS = {"said": "true", "did": "false"}
"""What subspaces are called -> the method's option ``per_layer``: with a scalar for every layer, and without."""
DIMENSIONS = (32, 128, 512, 2048, 8192)
SEEDS = (0, 1, 2)
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
    lr: float | None = None
    full_lr: float | None = None


@dataclass(frozen=True)
class IntrinsicDimension(Result):
    """In how small a subspace a task can be learnt.

    Attributes:
        folder: where the runs are, and intrinsic.json.
        curve: the scores, in subspaces and in full.
        d90: kind -> the smallest dimension whose mean is 90 % of full fine-tuning's; None where none is.
        d90_of_gain: the same of what full fine-tuning gains over the frozen features; empty where it gains nothing.
        d90_by_seed: kind -> seed -> d90 of that seed's runs alone.
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
        lr, full_lr: the rates of subspaces and of full fine-tuning; each training finds its own on training rows where not given.
        seeds: every side is trained with each; 0, 1 and 2 where not given.
        folder: where the runs are; runs/intrinsic-NAME where not given.
        metric: another one of the task's than its first.
        wait, table, offline, workers, on, slurm, watch: as of ``compare``; there is no table of all runs.

    Returns:
        The curve and its d90, in intrinsic.json, as a figure and as a page in the folder.

    Raises:
        UsageError: for dimensions and kinds that are none; RecipeError for a wrong recipe, before anything is trained.
        RunError: where no run is finished in the end.
        Interrupted: after a polite stop; the same call goes on.

    Example:
        >>> lorakit.intrinsic_dimension("mrpc-lora", dimensions=[64, 256, 1024]).d90["said"]     # doctest: +SKIP
    """
    folder, full, arms = resolve(asked)
    every = [full, *arms.values()]
    known = [found for arm in every if (found := forecast(arm, train=True)) is not None]
    metric, _ = choose_metric(known, asked.metric)
    if not rises(metric):
        what = f"90 % of '{metric}' is no aim: lower is better"
        raise UsageError(what, where="--metric", valid="a metric of which more is better")
    absent = paired_order(every)
    failed, missing = list[Missing](), list[Missing]()
    if absent:
        with trainer(intrinsic_dimension, asked, folder, len(absent), goes_on(asked)) as train:
            failed, missing = train(absent, sum(len(arm.entries) for arm in every))
    return conclude(folder, metric, full, arms, failed, missing)


def goes_on(asked: IntrinsicRequest) -> str:
    """The command that goes on with the measurement."""
    more = {"--dimensions": asked.dimensions, "--kinds": asked.kinds, "--lr": asked.lr, "--full-lr": asked.full_lr}
    return asked.again("analyze", ["--intrinsic", asked.recipe], asked.overrides, more)


def resolve(asked: IntrinsicRequest) -> tuple[Path, Arm, dict[tuple[str, int], Arm]]:
    """The folder, the side that is trained in full, and kind and dimension -> side; checked."""
    check_alone()
    check_engine(asked)
    dimensions = DIMENSIONS if asked.dimensions is None else asked.dimensions
    check_request(asked, dimensions)
    loaded = load_recipe(asked.recipe, asked.overrides, offline=asked.offline)
    name = loaded.recipe.run.name or loaded.name
    folder = Path(f"runs/intrinsic-{name}" if asked.folder is None else asked.folder)
    seeds = SEEDS if asked.seeds is None else asked.seeds
    rate, full_rate = ("auto" if given is None else f"{given:g}" for given in (asked.lr, asked.full_lr))
    baselines = "[]" if loaded.recipe.task.regression else f"[{MAJORITY}, {FROZEN}]"
    recipes = [
        side(loaded, f"{name}-full", full_rate, "adapter.method=full", f"evaluation.baselines={baselines}"),
        *(
            side(
                loaded,
                f"{name}-{kind}-{dimension}",
                rate,
                "adapter.method=intrinsic",
                f"adapter.rank={dimension}",
                f"adapter.options={{per_layer: '{KINDS[kind]}'}}",
                "evaluation.baselines=[]",
            )
            for kind in asked.kinds
            for dimension in dimensions
        ),
    ]
    full, *others = gather(recipes, (), seeds, folder)
    for arm in (full, *others):
        for entry in arm.entries.values():
            entry.check_same_recipe()
    keys = [(kind, dimension) for kind in asked.kinds for dimension in dimensions]
    return folder, full, dict(zip(keys, others, strict=True))


def check_request(asked: IntrinsicRequest, dimensions: Sequence[int]) -> None:
    """Raises UsageError for dimensions, kinds and overrides that make no measurement."""
    check_named_apart(asked.overrides)
    for override in asked.overrides:
        key = override.partition("=")[0].strip()
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
    if not asked.kinds or len(set(asked.kinds)) < len(asked.kinds):
        raise UsageError("names a kind of subspace twice, or none", where="--kinds", valid=",".join(KINDS))


def side(loaded: LoadedRecipe, name: str, rate: str, *overrides: str) -> LoadedRecipe:
    """The recipe as one side of the measurement: without its own adapter, search and rate."""
    places = {key: place for key, place in loaded.places.items() if not f"{key}.".startswith(("adapter.", "search."))}
    training = replace(loaded.recipe.training, lr=None)
    bare = replace(loaded.recipe, adapter=AdapterSection(), search=SearchSection(), training=training)
    settings = [*overrides, f"training.lr={rate}", f"run.name={name}"]
    return load_recipe(replace(loaded, recipe=bare, places=places, folder=None), settings)


def conclude(
    folder: Path,
    metric: str,
    full: Arm,
    arms: dict[tuple[str, int], Arm],
    failed: list[Missing],
    missing: list[Missing],
) -> IntrinsicDimension:
    """What the runs that are there come to; writes figure, page and JSON."""
    scores = {seed: score_of(full, seed, metric) for seed in full.finished}
    subspaces = [
        Subspace(kind, dimension, {seed: score_of(arm, seed, metric) for seed in arm.finished})
        for (kind, dimension), arm in arms.items()
        if arm.finished
    ]
    if not scores or not subspaces:
        raise no_finished_run(failed, folder)
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
    )
    of_kind, gain = curve.kinds(), curve.aim_of_gain
    found = IntrinsicDimension(
        folder=folder,
        curve=curve,
        d90={kind: smallest(own, curve.aim) for kind, own in of_kind.items()},
        d90_of_gain={} if gain is None else {kind: smallest(own, gain) for kind, own in of_kind.items()},
        d90_by_seed={
            kind: {seed: smallest(own, SHARE * score, seed) for seed, score in scores.items()}
            for kind, own in of_kind.items()
        },
        failed=failed,
        missing=missing,
        figure=folder / "intrinsic.png",
        page=folder / "intrinsic.html",
        summary=intrinsic_words(curve),
    )
    write_page(found, full.recipe.model.name)
    write_json(folder / "intrinsic.json", {**found.to_dict(), "environment": environment()})
    return found


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
