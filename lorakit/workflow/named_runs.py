"""Runs by what people call their task: its name, or of own data that of the file."""

from __future__ import annotations

from pathlib import Path

from lorakit.artifacts.run import Run, all_runs, newest_run
from lorakit.errors import RunError, UsageError, nearest
from lorakit.recipe.schema import CUSTOM
from lorakit.tasks.task import Task, tasks


def newest_of(folder: Path, task: str | None) -> Run:
    """The newest finished run in ``folder`` of a task: one of the catalogue, or own data by their name.

    ``custom`` means own data where all runs are of the same. UsageError where there is none, or ``custom`` could be several.
    """
    if task is None or task in tasks:
        return newest_run(folder, task)
    own = own_runs(folder)
    if task != CUSTOM:
        named = [run for run, known in own if known.known_as == task]
        if not named:
            raise unknown_task(folder, task)
        return named[-1]
    names = list(dict.fromkeys(known.known_as for _, known in own))
    if len({known.title for _, known in own}) > 1:
        runs = ", ".join(f"{known.known_as} ({run.path})" for run, known in own)
        raise UsageError(
            f"there are runs of several data sets of your own: {', '.join(names)}",
            valid=runs,
            hint=f"lorakit eval {names[-1]}, or --run with a run's folder",
        )
    return newest_run(folder, task)


def own_runs(folder: Path) -> list[tuple[Run, Task]]:
    """The finished runs of own data, in the order in which they were begun; those whose files are broken are left aside."""
    found = []
    for run in all_runs(folder):
        try:
            if run.finished and (task := run.task()).name == CUSTOM:
                found.append((run, task))
        except RunError:
            continue
    return found


def unknown_task(folder: Path, task: str) -> UsageError:
    """A UsageError about a task that is neither in the catalogue nor what a run of own data is called."""
    names = [*tasks.names(), *dict.fromkeys(known.known_as for _, known in own_runs(folder))]
    return UsageError(
        f"there is no task called '{task}', and no finished run of data of that name",
        where=str(folder),
        valid=", ".join([*names, CUSTOM]),
        hint=nearest(task, names),
    )
