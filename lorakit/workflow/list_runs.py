"""``lorakit list runs``: what lies in a folder of runs, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from lorakit.artifacts.records import reading
from lorakit.artifacts.run import TASKS, Run, all_runs
from lorakit.artifacts.standing import Standing, standing
from lorakit.errors import LorakitError, UsageError
from lorakit.result import Result
from lorakit.tasks.metrics import main_metric

RUNS = Path("runs")

BROKEN = "broken"


@dataclass(frozen=True)
class ListedRun(Result):
    """One run. Of a broken one only the run, its date and the problem are sure to be known.

    Attributes:
        run: its folder.
        begun: when its recipe was written, in local time to the second.
        state: finished, interrupted, running, search, untrained or broken.
        step: of the newest checkpoint of a run that is not finished, from which it can be resumed; None without one.
        steps: of the whole training of such a run.
        task: what people call the task: its own name, of own data that of the file.
        model: the backbone.
        method: the adapter method, and the search where there is one.
        seed: of the run.
        metric: the task's main one.
        score: that of the last evaluation; None before the first.
        problem: what is wrong with a broken one.
    """

    run: Path
    begun: str
    state: str
    step: int | None = None
    steps: int | None = None
    task: str = ""
    model: str = ""
    method: str = ""
    seed: int | None = None
    metric: str = ""
    score: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class RunList(Result):
    """The runs of a folder.

    Attributes:
        folder: where they lie.
        runs: those right in it, in the order in which they were begun, the newest last.
        further: folders in it that hold runs of their own, as `lorakit compare` and `lorakit sweep` make them -> how many.
    """

    folder: Path
    runs: list[ListedRun]
    further: dict[str, int]


def list_runs(folder: str | Path | None = None) -> RunList:
    """Look at every run of a folder; none of them stops the others, whatever is wrong with it.

    Args:
        folder: where the runs lie; ``runs`` by default, which need not be there.

    Returns:
        The runs, the newest last. Those of a comparison, a sweep or a sequence, which lie deeper, are counted and not listed.

    Raises:
        UsageError: where the folder that is named is not there.

    Example:
        >>> for run in lorakit.list_runs().runs:                               # doctest: +SKIP
        ...     print(run.run, run.state, run.score)
    """
    place = RUNS if folder is None else Path(folder)
    if folder is not None and not place.is_dir():
        raise UsageError("there is no such folder", where=str(place), hint="the folder in which runs lie, such as runs")
    deeper = sorted([*place.glob("*/"), *place.glob(f"*/{TASKS}/")])
    further = {str(below): len(found) for below in deeper if (found := all_runs(below))}
    return RunList(place, [look_at(run) for run in all_runs(place)], further)


def look_at(run: Run) -> ListedRun:
    """What a run's folder tells, or what is wrong with it."""
    begun = datetime.fromtimestamp(run.recipe.stat().st_mtime).isoformat(sep=" ", timespec="seconds")
    try:
        return described(run, begun, standing(run))
    except (LorakitError, OSError) as error:
        problem = error.problems[0] if isinstance(error, LorakitError) else error
        return ListedRun(run.path, begun, BROKEN, problem=str(problem).partition("\n")[0])


def described(run: Run, begun: str, became: Standing) -> ListedRun:
    """A run that can be read. RunError where it cannot."""
    recipe = read_recipe(run.recipe)
    listed = {"begun": begun, "state": became.state, "step": became.step, "steps": became.steps} | recipe
    if became.state == "search":
        return ListedRun(run.path, **listed)
    task = run.task()
    metric = main_metric(task)
    return ListedRun(run.path, **listed, task=task.known_as, metric=metric, score=last_score(run, metric))


def read_recipe(path: Path) -> dict[str, Any]:
    """Model, method and seed as the run's recipe says them; only these are read, so that a long list is quick."""
    with reading(path, "a run's recipe"):
        try:
            recipe: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"it is no YAML: {str(error).partition(chr(10))[0]}") from None
        method, search = str(recipe["adapter"]["method"]), str(recipe["search"]["method"])
        return {
            "model": str(recipe["model"]["name"]),
            "method": method if search == "none" else f"{method}, {search}",
            "seed": int(recipe["run"]["seed"]),
        }


def last_score(run: Run, metric: str) -> float | None:
    """The main metric of the newest evaluation that was written down; None before the first."""
    if run.finished:
        summary = run.checked_summary()
        with reading(run.path / "summary.json", "a run's summary"):
            return float(summary["last"][metric]) if summary["last"] else None
    with reading(run.path / "metrics.jsonl", "a run's records"):
        scored = [record["scores"] for record in run.metrics() if "scores" in record]
        return float(scored[-1][metric]) if scored else None
