"""``lorakit sweep``: a recipe over a grid of its keys, or over drawn values, and several seeds; best first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.completion import complete_setting
from lorakit.cli.experiments import (
    Csv,
    Folder,
    Metric,
    NoWait,
    On,
    Seeds,
    SlurmOptions,
    SubmitOnly,
    Workers,
    heading,
    request,
    say_the_rest,
    spread,
    tell_submitted,
    too_wide,
)
from lorakit.cli.options import AsJson, LabelColumn, ModelName, Offline, Quiet, RecipeName, TextColumn, as_settings
from lorakit.cli.output import write
from lorakit.reporting.tables import Column, count, counted, duration, table

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.workflow.experiments.ranking import SweptPoint
    from lorakit.workflow.experiments.sweep import PlannedPoint, Sweep, SweepPlan
    from lorakit.workflow.experiments.totals import Totals


def sweep(
    recipe: RecipeName,
    overrides: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar="KEY=VALUE[,VALUE]...",
            help="One value sets a key of all points, several make a grid: training.lr=1e-4,3e-4 adapter.rank=4,8. "
            "With --trials also KEY=LOW..HIGH. A list is one value: adapter.targets=\\[q,v],\\[q,k,v].",
            autocompletion=complete_setting,
        ),
    ] = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    model: ModelName = None,
    seeds: Seeds = None,
    folder: Folder = None,
    metric: Metric = None,
    trials: Annotated[
        Optional[int],
        typer.Option("--trials", metavar="N", min=1, help="Let Optuna draw N points, all workers together."),
    ] = None,
    storage: Annotated[
        Optional[str],
        typer.Option(
            "--storage",
            metavar="URL",
            help="Where Optuna keeps its study: sqlite:///FILE, another database, or a journal file; FOLDER/study.journal by default.",
        ),
    ] = None,
    holdout: Annotated[
        Optional[float],
        typer.Option(
            "--holdout",
            metavar="SHARE",
            help="Choose by this share of the training rows, train the best point on all of them and score it on the validation rows.",
        ),
    ] = None,
    prune: Annotated[
        Optional[str],
        typer.Option(
            "--prune",
            metavar="asha|hyperband",
            help="End drawn trials early whose score on the held-out rows is not among the best third so far; hyperband lets some start "
            "slowly. Needs --trials, --holdout.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check and list the points with their parameters; train and write nothing."),
    ] = False,
    workers: Workers = None,
    on: On = None,
    slurm_option: SlurmOptions = None,
    submit_only: SubmitOnly = False,
    no_wait: NoWait = False,
    csv: Csv = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a recipe over a grid of values and several seeds, and rank the points."""
    how = {"no_wait": no_wait, "offline": offline, "quiet": quiet}
    asked = request(seeds, folder, metric, csv, workers=workers, on=on, slurm=slurm_option, **how)
    asked |= {"trials": trials, "storage": storage, "holdout": holdout, "prune": prune}
    settings = [*(overrides or []), *as_settings(text=text, label=label, model=model)]
    with envelope(offline=offline, quiet=quiet):
        if dry_run:
            planned = lorakit.plan_sweep(recipe, settings, **asked)
            answer(planned, lambda plan: write(plan_table(plan)), as_json=as_json)
            return
        if submit_only:
            answer(lorakit.submit_sweep(recipe, settings, **asked), tell_submitted, as_json=as_json)
            return
        result = lorakit.sweep(recipe, settings, **asked)
        answer(result, tell, as_json=as_json)
        say_the_rest(result, (result.folder / "sweep.json", result.figure, csv))


def tell(result: Sweep) -> None:
    """Write the points, and how the best is trained again."""
    write(*sweep_tables(result))
    if result.final is not None:
        final = result.final
        runs = counted(len(final.runs), "run")
        write(
            f"the best, trained on all rows ({runs}): {spread(final.last)} on the validation rows, which did not choose it"
        )
    write(f"to train the best again: {result.best}")


def sweep_tables(result: Sweep) -> list[Table]:
    """The points, best first, in one table or on a narrow terminal in two."""

    def column(title: str, shown: Callable[[Totals], object]) -> Column:
        return Column(title, lambda point: "-" if point.came_to is None else shown(point.came_to), right=True)

    name = Column("point", lambda point: point.name)
    settings = setting_columns(result.points)
    scores = [
        Column("runs", runs_of, right=True),
        column("last", lambda came_to: spread(came_to.last)),
        column("best", lambda came_to: spread(came_to.best)),
    ]
    costs = [
        column("adapters", lambda came_to: count(came_to.adapter_parameters)),
        column("head", lambda came_to: count(came_to.head_parameters)),
        column("a run", lambda came_to: duration(came_to.seconds)),
    ]
    whole = [*settings, *scores, *costs] if settings else [name, *scores, *costs]
    title = heading(result)
    if result.holdout is not None:
        title += f", on {result.holdout:.0%} of the training rows"
    together = table(result.points, whole, title=title)
    if not too_wide(together):
        return [together]
    return [table(result.points, [name, *scores], title=title), table(result.points, [name, *costs])]


def runs_of(point: SweptPoint) -> str:
    """How many runs of a point are finished; of one that was pruned, where, and the score there."""
    if point.came_to is not None:
        return str(len(point.came_to.runs))
    reached = point.reached
    return "-" if reached is None else f"pruned at epoch {reached.epoch:.3g}, {reached.score:.4f}"


def plan_table(plan: SweepPlan) -> Table:
    """The points that would be trained, with their parameters."""
    of = len(plan.seeds)
    columns = [
        Column("point", lambda point: point.name),
        *setting_columns(plan.points),
        Column("adapters", lambda point: count(point.budget), right=True),
        Column("head", lambda point: count(point.head_parameters), right=True),
        Column("runs done", lambda point: f"{len(point.finished)} of {of}", right=True),
    ]
    title = f"{plan.task}, by {plan.metric}: "
    if plan.trials is None:
        title += f"{counted(len(plan.points), 'point')}, {counted(len(plan.points) * of, 'run')} in {plan.folder}"
    else:
        ranges = ", ".join(f"{key} {span}" for key, span in plan.ranges.items()) or "the axes"
        title += (
            f"{counted(plan.trials, 'trial')} with {counted(of, 'run')} each in {plan.folder}; the ends of {ranges}"
        )
    return table(plan.points, columns, title=title)


def setting_columns(points: Sequence[SweptPoint] | Sequence[PlannedPoint]) -> list[Column]:
    """A column for each key that varies."""

    def column(key: str) -> Column:
        return Column(key, lambda point: point.settings.get(key, ""))

    return [column(key) for key in points[0].settings]
