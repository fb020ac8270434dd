"""``lorakit train``: a recipe becomes a run folder."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

import lorakit
from lorakit.cli import plan
from lorakit.cli.command import answer, envelope
from lorakit.cli.options import (
    AsJson,
    LabelColumn,
    ModelName,
    Offline,
    Overrides,
    Quiet,
    RecipeName,
    Seed,
    TextColumn,
    open_recipe,
)
from lorakit.cli.output import next_line, say, warn, write
from lorakit.cli.sequence import refuse_for_sequence, sequence_settings, tell_learnt, tell_plan
from lorakit.errors import UsageError
from lorakit.reporting.tables import (
    Column,
    averaged_words,
    baseline_facts,
    count,
    duration,
    facts,
    frozen_words,
    percent,
    scores,
    table,
)

if TYPE_CHECKING:
    from lorakit.recipe.load import LoadedRecipe
    from lorakit.recipe.schema import Recipe
    from lorakit.workflow.train import TrainResult
    from lorakit.workflow.train_folds import FoldsResult


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    model: ModelName = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and the plan; train and write nothing.")
    ] = False,
    run_dir: Annotated[
        Optional[Path], typer.Option("--run-dir", help="The run's folder; runs/NAME-SEED by default.", file_okay=False)
    ] = None,
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")] = False,
    folds: Annotated[
        Optional[int],
        typer.Option(
            "--folds", metavar="N", help="Train N times, each time with another part of your own data held out.", min=2
        ),
    ] = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train the adapters of a recipe, with its search where it has one; its tasks in order; or a classifier from your own file."""
    with envelope(offline=offline, quiet=quiet):
        from lorakit.recipe.sequence import find_sequence

        if find_sequence(recipe) is not None:
            refuse_for_sequence({"--folds": folds, "--text": text, "--label": label})
            given = sequence_settings(overrides, seed=seed, model=model, offline=offline)
            learn(recipe, given, dry_run=dry_run, run_dir=run_dir, resume=resume, quiet=quiet, as_json=as_json)
            return
        loaded = open_recipe(recipe, overrides, seed=seed, offline=offline, text=text, label=label, model=model)
        if dry_run:
            if folds is not None:
                loaded = first_fold(loaded, folds)
            preview(loaded, as_json=as_json)
            return
        if not resume and folds is None:
            mind_unfinished(loaded, loaded.folder if run_dir is None else run_dir)
        say(f"loading {loaded.recipe.model.name} and {loaded.recipe.task.train or loaded.recipe.task.name}")
        from lorakit.cli.progress import ProgressHook

        with ProgressHook(quiet=quiet) as progress:
            if folds is not None:
                refuse_with_folds(resume=resume)
                found = lorakit.train_folds(loaded, folds=folds, run_dir=run_dir, hooks=[progress])
                answer(found, tell_folds, as_json=as_json)
                return
            result = lorakit.train(loaded, run_dir=run_dir, resume=resume, hooks=[progress])
        answer(result, partial(tell, recipe=loaded.recipe), as_json=as_json)


def learn(
    recipe: str,
    overrides: list[str],
    *,
    dry_run: bool,
    run_dir: Path | None,
    resume: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Learn the tasks of a sequence in order, or tell what that would be."""
    if dry_run:
        answer(lorakit.plan_sequence(recipe, overrides), tell_plan, as_json=as_json)
        return
    from lorakit.cli.progress import ProgressHook
    from lorakit.workflow.sequences.folder import told_unfinished
    from lorakit.workflow.sequences.opening import opened

    if not resume and run_dir is None and (stopped := told_unfinished(opened(recipe, overrides))):
        say(f"{stopped}; this trains anew")
    with ProgressHook(quiet=quiet) as progress:
        learnt = lorakit.train_sequence(recipe, overrides, run_dir=run_dir, resume=resume, hooks=[progress])
    answer(learnt, tell_learnt, as_json=as_json)


def mind_unfinished(loaded: LoadedRecipe, folder: Path | None) -> None:
    """Say it where a stopped run of the same recipe could go on instead; UsageError where it lies in the ``folder`` to train in."""
    from lorakit.workflow.unfinished import find_resumable, refuse_unfinished

    if folder is not None:
        refuse_unfinished(loaded, folder)
    elif stopped := find_resumable(loaded):
        say(f"{stopped}; this trains anew")


def first_fold(loaded: LoadedRecipe, folds: int) -> LoadedRecipe:
    """The recipe of the first of the folds, which stands for all of them."""
    from lorakit.workflow.train_folds import one_fold

    say(f"fold 1 of {folds}; the others hold out other rows")
    return one_fold(loaded, 1, folds)


def refuse_with_folds(*, resume: bool) -> None:
    """Folds go on by themselves where they were stopped."""
    if resume:
        raise UsageError("--folds goes on by itself with what is not finished", hint="leave --resume out")


def tell_folds(result: FoldsResult) -> None:
    """Write each fold's scores, their mean, and what can be done with the folds together."""
    rows = [*((run.name, found) for run, found in zip(result.runs, result.scores, strict=True))]
    rows += [("mean", result.mean), ("deviation", result.deviation)]
    columns = [Column("fold", lambda row: row[0])]
    columns += [Column(name, lambda row, name=name: f"{row[1][name]:.4f}", right=True) for name in result.mean]  # type: ignore[misc]
    write(
        table(rows, columns),
        facts([("predictions", f"{result.predictions}  (of each row by the fold that held it out)")]),
    )
    say(f"next, with all folds as one classifier:\n  {next_line('predict', result.out, 'FILE')}")


def preview(loaded: LoadedRecipe, *, as_json: bool) -> None:
    """Print the resolved recipe and its plan; nothing is written."""
    planned = lorakit.plan(loaded)

    def tell_both(_: dict[str, Any]) -> None:
        write(loaded.to_yaml())
        plan.tell(planned)

    answer({"recipe": dataclasses.asdict(loaded.recipe), "plan": planned.to_dict()}, tell_both, as_json=as_json)


def tell(result: TrainResult, *, recipe: Recipe) -> None:
    """Write what a person wants to know when a training has ended, and say what can be done next."""
    time, chosen = duration(result.seconds), result.selected == "best"
    if result.search_seconds:
        time += f", {percent(result.search_seconds / result.seconds)} of it search"
    found = result.rate
    pairs = [
        (f"last, step {result.steps}", scores(result.last)),
        (
            f"best, step {result.best_step}",
            f"{scores(result.best)}  (chosen by {result.metric} on the validation split)",
        ),
        *([("used", "the best weights, which the validation rows chose: their scores there flatter them")] * chosen),
        *baseline_facts(result.baselines),
        *([("readout", str(result.readout))] if result.readout else []),
        *calibration_lines(result),
        ("parameters", f"{count(result.adapter_parameters)} in adapters, {count(result.head_parameters)} in the head"),
        ("sites on", f"{result.sites_on} of {result.sites_total}"),
        *([("learning rate", f"{found.lr:.3g}, found in {duration(result.rate_seconds)}")] if found else []),
        ("time", time),
        ("run", str(result.run_dir)),
    ]
    write(facts(pairs))
    if result.stopped:
        say(result.stopped)
    for told in filter(None, (frozen_words(result.frozen), averaged_words(result.averaged))):
        say(told)
    for warning in result.warnings:
        warn(warning)
    from lorakit.adapters.method import unmergeable

    evaluation = ["eval", result.name, "--run", result.run_dir, *(["--offline"] if recipe.run.offline else [])]
    merging = [] if unmergeable(recipe.adapter) else [["merge", result.run_dir]]
    commands = (evaluation, *merging, ["predict", result.run_dir, "FILE"])
    say("\n  ".join(["next:", *(next_line(*words) for words in commands)]))


def calibration_lines(result: TrainResult) -> list[tuple[str, str]]:
    """What the temperature does to the probabilities of the weights that are used."""
    found = result.calibration.get(result.selected)
    if found is None:
        return []
    if found.note:
        return [("calibration", f"none: {found.note}")]
    told = f"{found.before.ece:.4f} -> {found.after.ece:.4f}, log-loss {found.before.log_loss:.4f} -> {found.after.log_loss:.4f}"
    return [
        (
            "calibration",
            f"error {told}  (temperature {found.temperature:.4g}, fitted on these {count(found.rows)} validation rows)",
        )
    ]
