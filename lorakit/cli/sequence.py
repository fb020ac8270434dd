"""What the commands tell of a sequence of tasks: its plan, and its matrices of accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lorakit.cli.output import next_line, say, write
from lorakit.errors import UsageError
from lorakit.reporting.tables import Column, count, counted, facts, table

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.workflow.sequences.plan_sequence import SequencePlan
    from lorakit.workflow.sequences.score_sequence import Reading, SequenceScores
    from lorakit.workflow.sequences.train_sequence import SequenceResult


def refuse_for_sequence(options: Mapping[str, object]) -> None:
    """UsageError where an option is given that is for one run."""
    if given := [name for name, value in options.items() if value is not None]:
        what = f"{given[0]} is for one run, and this is a sequence of tasks"
        raise UsageError(what, hint="a run in the folder tasks of the sequence, where it is learnt; or leave it out")


def sequence_settings(
    overrides: Sequence[str] | None, *, seed: int | None, model: str | None, offline: bool
) -> list[str]:
    """``KEY=VALUE`` for all tasks; options win."""
    options = {"run.seed": seed, "model.name": model, "run.offline": offline or None}
    return [*(overrides or []), *(f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None)]


def tell_learnt(result: SequenceResult) -> None:
    """Write the scores, and say what can be done next."""
    tell_scores(result.scores)
    commands = (["eval", result.run_dir], ["report", result.run_dir], ["predict", result.final[0], "FILE"])
    say("\n  ".join(["next:", *(next_line(*words) for words in commands)]))


def tell_scores(scores: SequenceScores) -> None:
    """Write both matrices and what they come to."""
    known, unknown, forward = scores.known, scores.unknown, scores.forward
    pairs = [
        ("sequence", f"{scores.source}, {settings(scores.continual)}"),
        ("data", f"{scores.split}: {', '.join(map(count, scores.rows))} rows"),
        ("parameters", f"{count(scores.parameters)} in adapters and heads, to answer for all tasks"),
        ("task known", told(known) + ("" if forward is None else f", forward transfer {forward:+.4f}")),
        ("task not known", f"{told(unknown)}, over {counted(len(scores.labels), 'label')}"),
    ]
    write(
        facts(pairs),
        matrix_table(scores, known, "task known"),
        matrix_table(scores, unknown, "task not known"),
    )


def told(reading: Reading) -> str:
    """A reading in a line."""
    return (
        f"average accuracy {reading.average:.4f}, backward transfer {reading.backward:+.4f}, "
        f"forgetting {reading.forgetting:.4f}"
    )


def settings(continual: dict[str, object]) -> str:
    """``replay, memory 200``."""
    return ", ".join(str(value) if name == "method" else f"{name} {value}" for name, value in continual.items())


def matrix_table(scores: SequenceScores, reading: Reading, title: str) -> Table:
    """A line after each task, a column for each task."""
    rows = [*zip(scores.tasks, reading.matrix, strict=True)]
    columns = [Column("after", lambda row: row[0])]
    columns += [
        Column(name, lambda row, place=place: cell(row[1][place]), right=True)  # type: ignore[misc]
        for place, name in enumerate(scores.tasks)
    ]
    return table(rows, columns, title=title)


def cell(value: float | None) -> str:
    """An accuracy, or nothing."""
    return "" if value is None else f"{value:.4f}"


def tell_plan(plan: SequencePlan) -> None:
    """Write the tasks in their order, and what all of them take."""
    columns = [
        Column("task", lambda task: task.name),
        Column("labels", lambda task: len(task.labels), right=True),
        Column("rows", lambda task: count(task.rows), right=True),
        Column("steps", lambda task: count(task.steps), right=True),
        Column("adapter trains", lambda task: count(task.trained), right=True),
        Column("head", lambda task: count(task.head), right=True),
        Column("kept after it", lambda task: count(task.kept), right=True),
    ]
    pairs = [
        ("method", settings(plan.continual)),
        ("labels", f"{len(plan.labels)}, each name once"),
        ("steps", f"{count(plan.steps)} in all"),
        *(("note", note) for note in plan.notes),
    ]
    write(facts(pairs), table(plan.tasks, columns, title=counted(len(plan.tasks), "task")))
