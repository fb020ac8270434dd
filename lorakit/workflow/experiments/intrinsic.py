"""``lorakit analyze --intrinsic``: in how small a random subspace a task can be learnt (Aghajanyan et al. 2021).

The recipe is trained in full, and in random subspaces of growing dimension (adapter method `intrinsic`), every side at a rate of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.artifacts.files import write_json, write_text
from lorakit.artifacts.run import environment
from lorakit.errors import UsageError
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
from lorakit.workflow.experiments.arms import Arm, check_same_recipes, choose_metric, paired_order, rises
from lorakit.workflow.experiments.elsewhere import trainer
from lorakit.workflow.experiments.intrinsic_spec import (
    FULL,
    SEEDS,
    IntrinsicRequest,
    Side,
    resolve,
    score_of,
)
from lorakit.workflow.experiments.request import called_with
from lorakit.workflow.experiments.totals import as_csv, side_by_side
from lorakit.workflow.experiments.workers import Missing, no_finished_run


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
    tried = [arm for own in trials.values() for arm in own.values()]
    check_same_recipes(tried)
    for side in sides:
        side.check_begun(seeds, folder)
    known = [found for side in sides if (found := side.foreseen(seeds, folder)) is not None]
    metric, _ = choose_metric(known, asked.metric)
    if not rises(metric):
        what = f"90 % of '{metric}' is no aim: lower is better"
        raise UsageError(what, where="--metric", valid="a metric of which more is better")
    total = len(tried) + len(sides) * len(seeds)
    with trainer(intrinsic_dimension, asked, folder, total, goes_on(asked)) as train:
        failed, missing = train(paired_order(tried), total)
        awaited = {lost.run for lost in missing}
        rates = {side: rate for side in sides if (rate := side.best(trials[side.name], metric, awaited)) is not None}
        arms = {side: side.arm(rate, seeds, folder) for side, rate in rates.items()}
        check_same_recipes([*arms.values()])
        again = train(paired_order([*arms.values()]), total)
    result = conclude(folder, metric, sides, arms, rates, [*failed, *again[0]], [*missing, *again[1]])
    if asked.table is not None:
        write_text(Path(asked.table), as_csv(side_by_side([*arms.values()], metric)))
    return result


def goes_on(asked: IntrinsicRequest) -> str:
    """The command that goes on with the measurement, where there is one that asks for all of it."""
    if asked.table is not None or asked.on is not None:
        return "the same call again"
    more = {"--dimensions": asked.dimensions, "--kinds": asked.kinds, "--lr": asked.lr, "--full-lr": asked.full_lr}
    return asked.again("analyze", ["--intrinsic", asked.recipe], asked.overrides, more)


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
