"""``lorakit eval``: the task's own metrics of a run or a model, with a confidence interval."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.completion import complete_run, complete_task
from lorakit.cli.options import AsJson, CutRank, Force, Offline, Quiet, Weights, refuse_overwrite
from lorakit.cli.output import say, write
from lorakit.cli.sequence import refuse_for_sequence, tell_scores
from lorakit.errors import UsageError
from lorakit.recipe.vocabulary import SEQUENCE_FILE
from lorakit.reporting.tables import Column, count, counted, duration, facts, table

if TYPE_CHECKING:
    from lorakit.artifacts.rank_curve_file import RankPoint
    from lorakit.workflow.evaluate import EvalResult, Trust
    from lorakit.workflow.rank_curve import RankCurve


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
    weights: Weights = None,
    rank: CutRank = None,
    ranks: Annotated[
        Optional[str],
        typer.Option(
            "--ranks", metavar="K,K,...", help="Score the run cut to each of these ranks, or all; kept for its report."
        ),
    ] = None,
    predictions: Annotated[
        Optional[Path],
        typer.Option(
            "--predictions", metavar="FILE", help="Write one row per example (GLUE's form for its test splits)."
        ),
    ] = None,
    force: Force = False,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score a run or a checkpoint on a task."""
    with envelope(offline=offline, quiet=quiet):
        if predictions is not None:
            refuse_overwrite(predictions, force=force)
        if task and run is None and model is None and is_run(Path(task)):
            run, task = Path(task), None
        if run is not None and (run / SEQUENCE_FILE).is_file():
            others = {"TASK": task, "--model": model, "--file": file, "--by": by, "--rank": rank, "--ranks": ranks}
            refuse_for_sequence(others | {"--weights": weights, "--predictions": predictions})
            say(f"evaluating the tasks of {run}")
            answer(lorakit.evaluate_sequence(run, split=split, offline=offline), tell_scores, as_json=as_json)
            return
        if ranks is not None:
            from lorakit.workflow.named_runs import newest_of

            others = {"--model": model, "--file": file, "--by": by, "--rank": rank, "--predictions": predictions}
            if given := [name for name, value in others.items() if value is not None]:
                raise UsageError(
                    f"--ranks and {given[0]} exclude each other", valid="--ranks with --run, --split and --weights"
                )
            path = run or newest_of(Path("runs"), task).path
            say(f"evaluating {path} at ranks {ranks}")
            curve = lorakit.rank_curve(path, ranks, split=split, weights=weights, offline=offline)
            answer(curve, tell_curve, as_json=as_json)
            return
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


def is_run(folder: Path) -> bool:
    """Whether a run's folder, an ensemble's or a sequence's stands where a task could."""
    return any((folder / name).is_file() for name in ("recipe.yaml", "ensemble.json", SEQUENCE_FILE))


def tell(result: EvalResult) -> None:
    """Write what was scored, on what, and every metric."""
    from lorakit.cli.diagnosis_tables import diagnosis_facts, diagnosis_tables, slice_table

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
    pairs += trust_lines(result.trust) if result.trust is not None else []
    if not result.scores:
        pairs.append(("scores", "none: this split has no labels"))
    if result.predictions is not None:
        pairs.append(("predictions", str(result.predictions)))
    found = result.diagnosis
    pairs += [] if found is None else diagnosis_facts(found)
    write(facts(pairs), *([] if found is None else diagnosis_tables(found)))
    if result.slices:
        write(slice_table(result.slices, f"by {result.by}"))


def tell_curve(curve: RankCurve) -> None:
    """Write a line for each rank, and what the numbers may be used for."""
    columns = [
        Column("rank", lambda point: point.rank, right=True),
        Column("adapter parameters", lambda point: count(point.parameters), right=True),
    ]
    if any(point.log_loss is not None for point in curve.points):
        columns.append(Column("log-loss", lambda point: f"{point.log_loss:.4f}", right=True))
    columns += [Column(name, partial(score_cell, name), right=True) for name in curve.points[0].scores]
    title = f"{curve.run} ({curve.weights} weights) on {curve.task}, {curve.split}, {counted(curve.rows, 'row')}"
    write(table(curve.points, columns, title=title), curve.note)


def score_cell(name: str, point: RankPoint) -> str:
    """A score of a point."""
    return f"{point.scores[name]:.4f}"


def trust_lines(found: Trust) -> list[tuple[str, str]]:
    """Log-loss and calibration error, beside what they would be without the temperature."""
    lines = []
    for name, field in (("log-loss", "log_loss"), ("calibration error", "ece")):
        fitted = ", which was fitted on these rows" if found.fitted_here else ""
        without = f"  ({getattr(found.plain, field):.4f} without the temperature of {found.temperature:.4g}{fitted})"
        lines.append((name, f"{getattr(found.used, field):.4f}" + without * (found.temperature != 1)))
    return lines
