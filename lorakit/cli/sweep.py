"""``lorakit sweep``: a recipe over a grid of its keys, or over drawn values, and several seeds; best first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.compare import spread, too_wide, whole_numbers
from lorakit.cli.options import AsJson, Csv, Metric, NoWait, Offline, Quiet, RecipeName
from lorakit.cli.output import say, warn, write
from lorakit.errors import Problem, RunError

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.reporting.tables import Column
    from lorakit.workflow.experiments.sweep import PlannedPoint, Sweep, SweepPlan
    from lorakit.workflow.experiments.swept import SweptPoint


def sweep(
    recipe: RecipeName,
    overrides: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar="KEY=VALUE[,VALUE]...",
            help="One value sets a key of all points, several make a grid: training.lr=1e-4,3e-4 adapter.rank=4,8. "
            "With --trials also KEY=LOW..HIGH. A list is one value: adapter.targets=\\[q,v],\\[q,k,v].",
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N,N", help="Train every point with each of these.")
    ] = "0,1,2",
    folder: Annotated[
        Optional[Path],
        typer.Option(
            "--folder",
            help="Where the runs are; several workers may share it. runs/sweep-RECIPE by default.",
            file_okay=False,
        ),
    ] = None,
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
            help="Of Optuna's study: sqlite:///FILE or another database, or a journal file; FOLDER/study.journal by default.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check and list the points with their parameters; train and write nothing."),
    ] = False,
    no_wait: NoWait = False,
    csv: Csv = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a recipe over a grid of values and several seeds, and rank the points."""
    numbers = whole_numbers(seeds) or []
    with envelope(offline=offline, quiet=quiet):
        from lorakit.cli.progress import ProgressHook

        asked: dict[str, Any] = {
            "seeds": numbers,
            "folder": folder,
            "metric": metric,
            "trials": trials,
            "storage": storage,
            "offline": offline,
        }
        if dry_run:
            planned = lorakit.plan_sweep(recipe, overrides or [], **asked)
            answer(planned, lambda plan: write(plan_table(plan)), as_json=as_json)
            return
        watch = partial(ProgressHook, quiet=quiet)
        result = lorakit.sweep(recipe, overrides or [], **asked, wait=not no_wait, table=csv, watch=watch)
        answer(result, tell, as_json=as_json)
        for warning in result.warnings:
            warn(warning)
        for lost in result.missing:
            warn(f"missing: {lost.run}: {lost.why}")
        for path in (result.folder / "sweep.json", result.figure, csv):
            if path is not None:
                say(f"wrote {path}")
    if result.failed:
        raise RunError([Problem(lost.why, where=lost.run) for lost in result.failed])


def tell(result: Sweep) -> None:
    """Write the points, and how the best is trained again."""
    write(*sweep_tables(result), f"to train the best again: {result.best}")


def sweep_tables(result: Sweep) -> list[Table]:
    """The points, best first, in one table or on a narrow terminal in two."""
    from lorakit.reporting.tables import Column, count, duration, table

    def column(title: str, cell: str) -> Column:
        shown = {
            "runs": lambda came_to: len(came_to.runs),
            "last": lambda came_to: spread(came_to.last),
            "best": lambda came_to: spread(came_to.best),
            "adapters": lambda came_to: count(came_to.adapter_parameters),
            "head": lambda came_to: count(came_to.head_parameters),
            "a run": lambda came_to: duration(came_to.seconds),
        }[cell]
        return Column(title, lambda point: shown(point.came_to) if point.came_to else "-", right=True)

    name = Column("point", lambda point: point.name)
    settings = setting_columns(result.points)
    scores = [column(title, title) for title in ("runs", "last", "best")]
    costs = [column(title, title) for title in ("adapters", "head", "a run")]
    title = f"{result.task}, {result.metric}{'' if result.higher_is_better else ' (lower is better)'}"
    whole = table(result.points, [*settings, *scores, *costs] if settings else [name, *scores, *costs], title=title)
    if not too_wide(whole):
        return [whole]
    return [table(result.points, [name, *scores], title=title), table(result.points, [name, *costs])]


def plan_table(plan: SweepPlan) -> Table:
    """The points that would be trained, with their parameters."""
    from lorakit.reporting.tables import Column, count, table

    of = len(plan.seeds)
    columns = [
        Column("point", lambda point: point.name),
        *setting_columns(plan.points),
        Column("adapters", lambda point: count(point.budget), right=True),
        Column("head", lambda point: count(point.head_parameters), right=True),
        Column("runs done", lambda point: f"{len(point.finished)} of {of}", right=True),
    ]
    points = f"{len(plan.points)} point{'' if len(plan.points) == 1 else 's'}"
    title = f"{plan.task}, by {plan.metric}: {points}, {len(plan.points) * of} runs in {plan.folder}"
    if plan.trials is not None:
        title = f"{plan.task}, by {plan.metric}: {plan.trials} trials with {of} runs each in {plan.folder}; the ends of"
        title += f" {', '.join(f'{key} {span}' for key, span in plan.ranges.items())}" if plan.ranges else " the axes"
    return table(plan.points, columns, title=title)


def setting_columns(points: Sequence[SweptPoint] | Sequence[PlannedPoint]) -> list[Column]:
    """A column for each key that varies."""
    from lorakit.reporting.tables import Column

    def column(key: str) -> Column:
        return Column(key, lambda point: point.settings.get(key, ""))

    return [column(key) for key in points[0].settings]
