"""``lorakit eval``: the task's own metrics of a run or a model, with a confidence interval."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.completion import complete_run, complete_task
from lorakit.cli.options import AsJson, CutRank, Offline, Quiet, Weights
from lorakit.cli.output import say, write
from lorakit.reporting.tables import Column, count, counted, duration, facts, table
from lorakit.tasks.table import clipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from lorakit.tasks.diagnosis import ClassScores, Diagnosis, Slice
    from lorakit.workflow.evaluate import EvalResult

RATES = ("precision", "recall", "f1")
WIDEST = 20  # classes that a table of class against class takes; --json has them all


def evaluate(
    task: Annotated[
        Optional[str],
        typer.Argument(
            metavar="TASK",
            help="A task (see: lorakit list tasks), own data by the name of their file, or a run's folder; the newest run by default.",
            autocompletion=complete_task,
        ),
    ] = None,
    run: Annotated[
        Optional[Path],
        typer.Option(
            "--run", help="A run folder; the newest run of this task by default.", autocompletion=complete_run
        ),
    ] = None,
    model: Annotated[
        Optional[str], typer.Option("--model", help="A checkpoint instead of a run: a folder or a hub name.")
    ] = None,
    split: Annotated[Optional[str], typer.Option("--split", help="A split; the validation split by default.")] = None,
    file: Annotated[
        Optional[Path],
        typer.Option(
            "--file", metavar="FILE", help="A labelled file to score instead, by the run's columns and labels."
        ),
    ] = None,
    by: Annotated[
        Optional[str], typer.Option("--by", metavar="COLUMN", help="With --file: the scores of each value of a column.")
    ] = None,
    weights: Weights = "last",
    rank: CutRank = None,
    predictions: Annotated[
        Optional[Path],
        typer.Option(
            "--predictions", metavar="FILE", help="Write one row per example (GLUE's form for its test splits)."
        ),
    ] = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score a run or a checkpoint on a task."""
    with envelope(offline=offline, quiet=quiet):
        if task and run is None and model is None and (Path(task) / "recipe.yaml").is_file():
            run, task = Path(task), None
        say(f"evaluating {model or run or 'the newest run'} on {file or task or 'its task'}")
        result = lorakit.evaluate(
            run,
            task=task,
            model=model,
            split=split,
            file=file,
            by=by,
            weights=weights,
            predictions=predictions,
            offline=offline,
            rank=rank,
        )
        answer(result, tell, as_json=as_json)


def tell(result: EvalResult) -> None:
    """Write what was scored, on what, and every metric."""
    pairs = [
        ("model", str(result.source)),
        ("data", f"{result.name}, {result.split}, {counted(result.rows, 'row')} in {duration(result.seconds)}"),
    ]
    if result.learnt:
        pairs.append(("learnt", f"{result.learnt}, and not {result.name}: labels are matched by name"))
    for metric, value in result.scores.items():
        text = f"{value:.4f}"
        if metric == result.metric and result.interval is not None:
            text += "  (95 % interval {:.4f} to {:.4f})".format(*result.interval)
        pairs.append((metric, text))
    if not result.scores:
        pairs.append(("scores", "none: this split has no labels"))
    if result.predictions is not None:
        pairs.append(("predictions", str(result.predictions)))
    found = result.diagnosis
    if found is not None and found.roc_auc is not None and found.average_precision is not None:
        over = "" if len(found.classes) == 2 else "  (mean over classes, each against the rest)"
        pairs.append(("ROC-AUC", f"{found.roc_auc:.4f}{over}"))
        pairs.append(("average precision", f"{found.average_precision:.4f}{over}"))
    write(facts(pairs), *(diagnosis_tables(found) if found is not None else []))
    if result.slices:
        write(slice_table(result.slices, f"by {result.by}"))


def diagnosis_tables(found: Diagnosis) -> list[Table]:
    """Where the classifier is wrong: by class, class against class, by length, and its most confident errors."""
    names = [row.label for row in found.classes]
    tables = [
        table(
            found.classes,
            [
                Column("class", lambda row: row.label),
                *(Column(name, partial(rate, name), right=True) for name in RATES),
                Column("rows", lambda row: count(row.support), right=True),
            ],
            title="by class",
        )
    ]
    if len(names) <= WIDEST:
        columns = [Column("labelled", lambda row: row[0])]
        columns += [Column(name, partial(cell, place), right=True) for place, name in enumerate(names)]
        rows = zip(names, found.confusion, strict=True)
        tables.append(table(rows, columns, title="confusion: labelled (down), predicted (across)"))
    if found.by_length:
        tables.append(slice_table(found.by_length, "by length"))
    if found.errors:
        columns = [
            Column("sure", lambda row: f"{row.probability:.3f}", right=True),
            Column("predicted", lambda row: row.predicted),
            Column("labelled", lambda row: row.label),
            Column("row", lambda row: row.row, right=True),
            Column("text", lambda row: clipped(row.text)),
        ]
        tables.append(table(found.errors, columns, title="most confident errors"))
    return tables


def slice_table(slices: Sequence[Slice], title: str) -> Table:
    """A line for each part of the rows."""
    columns = [
        Column("part", lambda row: row.name),
        Column("rows", lambda row: count(row.rows), right=True),
        Column("errors", lambda row: "" if row.errors is None else count(row.errors), right=True),
        *(Column(name, partial(slice_score, name), right=True) for name in slices[0].scores),
    ]
    return table(slices, columns, title=title)


def rate(name: str, row: ClassScores) -> str:
    """One number of a class."""
    return f"{getattr(row, name):.4f}"


def cell(place: int, row: tuple[str, list[int]]) -> str:
    """One number of a line of the confusion matrix."""
    return count(row[1][place])


def slice_score(name: str, row: Slice) -> str:
    """One score of a slice."""
    return f"{row.scores[name]:.4f}"
