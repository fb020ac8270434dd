"""``lorakit train``: a recipe becomes a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lorakit.artifacts.adapter_file import check_saved, save_adapter
from lorakit.artifacts.base_file import kept_precisions, write_base
from lorakit.artifacts.calibration_file import write_calibration
from lorakit.artifacts.experts import KEY as EXPERTS_KEY
from lorakit.artifacts.fault_points import FaultPoint
from lorakit.artifacts.provenance import Provenance
from lorakit.artifacts.readout_file import ReadoutChoice, read_choice, write_choice
from lorakit.artifacts.run import Run
from lorakit.artifacts.warm_start import KEY
from lorakit.errors import RunError
from lorakit.recipe.load import AnyRecipe, LoadedRecipe, load_recipe
from lorakit.result import Result
from lorakit.tasks.baselines import Baseline, below_words, collapse_warnings, one_class
from lorakit.tasks.calibration import Calibration, as_calibration
from lorakit.tasks.diagnosis import count_pairs
from lorakit.tasks.label_diagnosis import count_labels
from lorakit.tasks.task import TaskData
from lorakit.training.checkpoint import load_checkpoint
from lorakit.training.early_stopping import stopped_words
from lorakit.training.evaluation import decide
from lorakit.training.hooks import Hook
from lorakit.training.loop import BEST
from lorakit.training.loop import train as run_loop
from lorakit.training.rate import FoundRate
from lorakit.training.search_hook import SearchHook
from lorakit.training.tail_average import TailAverage
from lorakit.training.training import Training
from lorakit.training.update import never_trained
from lorakit.workflow.baselines import measure_baselines
from lorakit.workflow.experts import assemble_with_experts
from lorakit.workflow.parts import Parts
from lorakit.workflow.prepare import prepare
from lorakit.workflow.readout import settle_readout
from lorakit.workflow.resume import check_same_recipe, choose_run, holding
from lorakit.workflow.same_data import check_same_base, check_same_data, remember, seen_before, seen_by, warn_of_seen
from lorakit.workflow.setup import assemble
from lorakit.workflow.sharding import check_sharding, launched_for_training
from lorakit.workflow.unfinished import as_begun

logger = logging.getLogger(__name__)

MOST_CLASSES = 50  # whose confusion a summary holds


@dataclass(frozen=True)
class TrainResult(Result):
    """What a run came to; also its summary.json.

    Attributes:
        run_dir: the run's folder, to evaluate, predict with, merge and report on.
        task: the task's name.
        metric: the score that chose the best evaluation.
        last: scores of the last evaluation.
        best: scores of the best one, which the validation split itself chose.
        best_step: the step of the best one.
        best_epoch: its epoch, as a fraction.
        steps: optimiser steps done.
        epochs: the same in epochs.
        seconds: of training, that before an interruption included and loading not.
        search_seconds: what the search's ticks took of that.
        adapter_parameters: trained parameters of the adapters that are on, within ``budget``.
        carried_parameters: of all adapters that the model computes with, frozen ones included.
        head_parameters: trained parameters of the task's head, not in the budget.
        budget: adapter parameters that were allowed.
        sites_on: sites whose adapters are on.
        sites_total: sites that have an adapter.
        seed: of the run.
        skipped_steps: steps left out because a gradient was not finite.
        seen: held-out texts that the weights it started from (``adapter.start``) were trained on.
        name: what people call the task: its own name, of own data that of the file.
        baselines: what simple classifiers get on the same rows (``evaluation.baselines``).
        collapsed: whether the last weights answer one class, or the same labels, for every row of the first validation split.
        confusion: of the last evaluation, the rows of the first validation split by the label they have (down) and the label they got
            (across), in the order of task.json; None for a number to predict, for several labels a row, and above 50 classes.
        by_label: the same of several labels a row: for each label the rows without it and with it; None for one label a row.
        warnings: what says that the training came to little: it collapsed, its loss never fell, or a baseline is better.
        planned_steps: optimiser steps that the recipe says; fewer were done where it stopped early.
        stopped: how it did, in a sentence; empty where it went to its end.
        selected: the weights that are used where nobody says which: ``last`` or ``best``. Of these are collapsed, confusion and
            warnings. Those that are best were chosen on the validation rows, whose scores then flatter them.
        averaged: what the last weights are a mean of (``training.average``): the first and the last step, how many snapshots, and what
            share of the mean products' squared norm their ranks cannot hold; empty where they are no mean.
        rate: how the learning rate was found, where ``training.lr`` is auto; else None.
        rate_seconds: what that took of the training's time.
        frozen: of ``training.freeze_below``: how many lower layers, of how many; the bytes that their states take on disk, 0 where
            they were computed in every step; the seconds that took before the training, which are not in ``seconds``. Empty
            where none are.
        calibration: of the last and the best weights the temperature for probabilities, fitted on the validation rows; empty where
            the recipe wants none, and for a number to predict.
        readout: what ``model.readout: auto`` chose, and why; None where the recipe says it.
    """

    run_dir: Path
    task: str
    metric: str
    last: dict[str, float]
    best: dict[str, float]
    best_step: int
    best_epoch: float
    steps: int
    epochs: float
    seconds: float
    search_seconds: float
    adapter_parameters: int
    carried_parameters: int
    head_parameters: int
    budget: int
    sites_on: int
    sites_total: int
    seed: int
    skipped_steps: int
    seen: int
    name: str
    baselines: list[Baseline]
    collapsed: bool
    confusion: list[list[int]] | None
    by_label: list[list[list[int]]] | None
    warnings: list[str]
    planned_steps: int
    stopped: str
    selected: str
    averaged: dict[str, float]
    frozen: dict[str, float]
    calibration: dict[str, Calibration]
    readout: ReadoutChoice | None
    rate: FoundRate | None = None
    rate_seconds: float = 0.0


def train(
    recipe: AnyRecipe,
    overrides: Sequence[str] = (),
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    hooks: Sequence[Hook] = (),
    data: TaskData | None = None,
) -> TrainResult:
    """Train a recipe, with its search where it has one, into a run folder; or go on with a run that was stopped.

    Args:
        recipe: the name of a shipped recipe, a YAML file, a run's folder, a file of data, or a recipe that is loaded.
        overrides: ``KEY=VALUE`` each, which win over the recipe.
        run_dir: the run's folder; the one that ``recipe`` names, else ``runs/NAME-SEED`` by default.
        resume: go on from the newest checkpoint of that folder, or of the newest unfinished run of this name and seed. The run
            then ends as if it had never been stopped.
        hooks: objects whose methods the loop calls by name (``lorakit.training.hooks.Hook``).
        data: the rows, where they are at hand already.

    Returns:
        What the run came to; everything else is in its folder.

    Raises:
        RecipeError: for a wrong recipe, or one that does not fit its model; everything that is wrong at once.
        UsageError: for a folder that holds another run, for a run that cannot be resumed with this recipe, and for processes that
            were launched for another engine than data parallel or FSDP version 2.
        DataError: for data that cannot be used.
        RunError: where the training diverged, or what it wrote is not what it trained.
        Interrupted: after a polite stop; the same call with ``resume=True`` goes on.

    Example:
        >>> result = lorakit.train("demo", ["training.epochs=1"])              # doctest: +SKIP
        >>> result.run_dir                                                     # doctest: +SKIP
        PosixPath('runs/demo-0')
    """
    with launched_for_training() as sharded:
        return train_loaded(load_recipe(recipe, overrides), run_dir, data, hooks, resume=resume, sharded=sharded)


def train_loaded(
    loaded: LoadedRecipe,
    run_dir: str | Path | None,
    data: TaskData | None,
    hooks: Sequence[Hook],
    *,
    resume: bool,
    sharded: bool,
) -> TrainResult:
    """``train`` as the processes were launched; sharded: whether they share the frozen weights out."""
    if sharded:
        with loaded.locating_errors():
            check_sharding(loaded.recipe)
    run = choose_run(loaded, run_dir, resume)
    if resume:
        run.check_own()
        loaded, choice = as_begun(loaded, run), read_choice(run)
        check_same_recipe(loaded, run)
        parts = assemble(loaded, data, precisions=kept_precisions(run, loaded.recipe))
    else:
        loaded, parts = assemble_with_experts(loaded, data, measured=True)
    if resume:
        with loaded.locating_errors():
            check_same_data(run, parts.data, parts.data.splits)
            check_same_base(run, parts.backbone)
    with holding(run, fresh=not resume) as guard:
        if not resume:
            with loaded.locating_errors():
                loaded, parts, choice = settle_readout(loaded, parts)
        baselines = measure_baselines(parts)
        training = prepare(loaded, parts, run, [*guard, *hooks], fresh=not resume, sharded=sharded)
        if resume:
            logger.info("resuming from %s", load_checkpoint(training))
        elif training.accelerator.is_main_process:
            write_base(training.adapted, run)
            write_choice(run, choice)  # first: a recipe that says it without a reason is one that a person decided
            run.start(replace(loaded, recipe=training.recipe).to_yaml(), parts.task, remember_start(parts))
        try:
            run_loop(training)
        finally:
            if loaded.recipe.run.trackers:
                training.accelerator.end_training()
        result = summarise(training, parts, baselines, choice)
        if training.accelerator.is_main_process:
            with FaultPoint("last adapter"):
                save_adapter(training.adapted, run.weights("last"))
            check_saved(training.adapted, run.weights("last"))
            write_calibration(run, result.calibration)
            draw(run, parts)
            run.write_summary(result.to_dict())
        return result


def remember_start(parts: Parts) -> Provenance:
    """What the run is made of; said where the adapters that it starts from have seen rows that are held out here."""
    start = parts.recipe.adapter.start
    earlier = [Path(start)] if start else [expert.run for expert in parts.experts]
    provenance = remember(parts.data, parts.backbone, seen_by(*earlier))
    warn_of_seen(provenance, f"{KEY} {start}" if start else EXPERTS_KEY)
    if parts.experts:
        provenance = replace(provenance, told={**provenance.told, "experts": [each.told() for each in parts.experts]})
    return provenance


def summarise(training: Training, parts: Parts, baselines: list[Baseline], choice: ReadoutChoice | None) -> TrainResult:
    """What the run came to. Raises RunError where what is on is not what the budget allows."""
    adapted, state = training.adapted, training.state
    on = adapted.adapter_parameters()
    if on > parts.budget.parameters:
        raise RunError(
            f"the run ended with {on:,} adapter parameters on, over its budget of {parts.budget.parameters:,}"
        )
    never, best = never_trained(training.recipe, adapted).total(), state.best or {}
    if not training.outputs:  # a run that was stopped after its last evaluation
        training.evaluate()
    first = parts.task.validation[0]
    selected = training.recipe.training.select
    decided = np.asarray(best["decided"]) if selected == BEST else decide(parts.task, training.outputs[first])
    references = np.asarray(parts.data.splits[first]["label"])
    losses = [record["loss"] for record in training.run.metrics() if "loss" in record]
    return TrainResult(
        run_dir=training.run.path,
        task=parts.task.name,
        metric=training.metric,
        last=state.scores,
        best=best["scores"],
        best_step=best["step"],
        best_epoch=best["epoch"],
        steps=state.step,
        epochs=state.epoch,
        seconds=state.seconds,
        search_seconds=sum((hook.seconds for hook in training.hooks if isinstance(hook, SearchHook)), 0.0),
        adapter_parameters=on - never,
        carried_parameters=adapted.adapter_parameters(adapted.in_function),
        head_parameters=adapted.head_parameters(),
        budget=parts.budget.parameters - never,
        sites_on=len(adapted.on),
        sites_total=len(adapted.sites),
        seed=training.recipe.run.seed,
        skipped_steps=len(state.skipped),
        seen=seen_before(training.run),
        name=parts.task.known_as,
        baselines=baselines,
        collapsed=not parts.task.regression and one_class(decided),
        by_label=count_labels(decided, references) if parts.task.multi_label else None,
        confusion=None
        if parts.task.num_labels > MOST_CLASSES or parts.task.regression or parts.task.multi_label
        else count_pairs(parts.task, decided, references),
        warnings=[
            *collapse_warnings(parts.task, decided, references, losses),
            *below_words(training.metric, best["scores"] if selected == BEST else state.scores, baselines),
        ],
        planned_steps=state.total_steps,
        stopped=stopped_words(state, training.metric, training.recipe.training.early_stopping),
        selected=selected,
        averaged=next((hook.told for hook in training.hooks if isinstance(hook, TailAverage)), {}),
        frozen=training.states.record() if training.states else {},
        calibration=calibrations(training),
        readout=choice,
        rate=FoundRate(**state.rate) if state.rate else None,
        rate_seconds=state.rate_seconds,
    )


def calibrations(training: Training) -> dict[str, Calibration]:
    """Those of the last and the best weights, where there are any."""
    last, best = training.calibrate(), (training.state.best or {}).get("calibration")
    found = {"last": last, "best": None if best is None else as_calibration(best)}
    return {which: each for which, each in found.items() if each is not None}


@FaultPoint("figures")
def draw(run: Run, parts: Parts) -> None:
    """The figures of the run: how often each site was on, and the curves."""
    from lorakit.reporting.figures import site_heatmap, training_curves

    timeline = run.timeline()
    if timeline:
        site_heatmap(timeline, parts.sites, run.report / "sites.png")
    rows = len(parts.data.splits[parts.task.validation[0]])
    training_curves(run.metrics(), [tick["step"] for tick in timeline], run.report / "curves.png", rows=rows)
