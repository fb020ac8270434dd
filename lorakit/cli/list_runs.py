"""``lorakit list runs``: a line for each run, and how a stopped one goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lorakit.cli.experiments import too_wide
from lorakit.cli.output import next_line, say, warn, write
from lorakit.reporting.tables import Column, counted, table

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.workflow.list_runs import ListedRun, RunList

NAME = Column("run", lambda run: run.run)
MADE_OF = [
    Column("task", lambda run: run.task),
    Column("model", lambda run: short(run.model)),
    Column("method", lambda run: run.method),
]
CAME_TO = [
    Column("score", lambda run: "" if run.score is None else f"{run.metric} {run.score:.4f}", right=True),
    Column("seed", lambda run: "" if run.seed is None else run.seed, right=True),
    Column("begun", lambda run: run.begun[:-3]),
    Column("state", lambda run: state(run)),
]


def tell(listed: RunList) -> None:
    """Write the runs, newest last; say what else there is, and how the newest stopped one goes on."""
    if listed.runs:
        write(*run_tables(listed))
    else:
        say(f"no runs in {listed.folder}: {next_line('train', 'demo')} makes one")
    for folder, number in listed.further.items():
        say(f"{counted(number, 'more run')} in {folder}: {next_line('list', 'runs', '--folder', folder)}")
    for run in listed.runs:
        if run.problem:
            warn(f"broken: {run.problem}")
    stopped = [run for run in listed.runs if run.state == "interrupted" and run.step is not None]
    if stopped:
        say(f"go on with it: {next_line('train', stopped[-1].run, '--resume')}")


def run_tables(listed: RunList) -> list[Table]:
    """The runs in one table, or on a narrow terminal in two."""
    title = f"{counted(len(listed.runs), 'run')} in {listed.folder}, newest last"
    together = table(listed.runs, [NAME, *MADE_OF, *CAME_TO], title=title)
    if not too_wide(together):
        return [together]
    return [table(listed.runs, [NAME, *CAME_TO], title=title), table(listed.runs, [NAME, *MADE_OF])]


def short(model: str) -> str:
    """A model's name; of a folder its last part."""
    return Path(model).name if Path(model).is_absolute() else model


def state(run: ListedRun) -> str:
    """What became of a run, in words."""
    from lorakit.artifacts.standing import Standing

    if run.state == "broken":
        return run.state
    return str(Standing(run.state, run.step, run.steps))  # type: ignore[arg-type]
