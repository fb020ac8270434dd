"""What the arms of a comparison come to: their finished runs summed up, the differences to the first, and what to be wary of."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lorakit.reporting.stats import Difference, Summary, paired_difference, summarise
from lorakit.result import Result
from lorakit.workflow.experiments.arms import Arm, Entry

FEW = 5  # seeds below which an interval promises too much
CLOSE = 0.01  # share by which parameters or epochs may differ without a word
NO_SETTINGS: Mapping[str, Mapping[str, Any]] = {}


@dataclass(frozen=True)
class ComparedRun(Result):
    """One finished run: all its scores after the last epoch and after the best one, its parameters and its time in seconds.

    collapsed: whether its last weights answer one class for every validation row.
    """

    seed: int
    path: str
    last: dict[str, float]
    best: dict[str, float]
    adapter_parameters: int
    carried_parameters: int
    head_parameters: int
    budget: int
    epochs: float
    seconds: float
    search_seconds: float
    collapsed: bool = False

    def says_nothing(self, which: str) -> bool:
        """Whether the ``last`` or ``best`` scores are those of one class for every row."""
        return self.collapsed and getattr(self, which) == self.last


@dataclass(frozen=True)
class Totals(Result):
    """The finished runs of one recipe, and what they come to.

    Parameters, epochs and seconds are means over the runs; last and best: the metric. search_overhead: the search's time as a share
    of the rest.
    """

    name: str
    model: str
    seeds: list[int]
    adapter_parameters: int
    carried_parameters: int
    head_parameters: int
    budget: int
    epochs: float
    last: Summary
    best: Summary
    seconds: float
    search_overhead: float
    runs: list[ComparedRun]

    @property
    def collapsed(self) -> int:
        """How many runs learnt nothing but one class."""
        return sum(run.collapsed for run in self.runs)


@dataclass(frozen=True)
class ComparedArm(Totals):
    """The same with the differences to the first arm, over the seeds that both have.

    None of the first itself, where there are none in common, and where all of both sides collapsed.
    """

    last_difference: Difference | None
    best_difference: Difference | None


def compared_run(entry: Entry) -> ComparedRun:
    """The entry's run, as its summary has it."""
    summary = entry.summary()
    adapters = summary["adapter_parameters"]
    return ComparedRun(
        seed=entry.seed,
        path=str(entry.run.path),
        last=summary["last"],
        best=summary["best"],
        adapter_parameters=adapters,
        carried_parameters=summary.get("carried_parameters", adapters),
        head_parameters=summary["head_parameters"],
        budget=summary.get("budget", adapters),
        epochs=summary["epochs"],
        seconds=summary["seconds"],
        search_seconds=summary.get("search_seconds", 0.0),
        collapsed=summary.get("collapsed") is True,
    )


def side_by_side(arms: Sequence[Arm], metric: str) -> list[ComparedArm]:
    """The arms that have finished runs, each with its differences to the first of ``arms``."""
    runs = {arm.name: [compared_run(arm.entries[seed]) for seed in sorted(arm.finished)] for arm in arms}
    reference = {run.seed: run for run in runs[arms[0].name]}
    return [
        compared_arm(arm, runs[arm.name], {} if arm is arms[0] else reference, metric) for arm in arms if runs[arm.name]
    ]


def compared_arm(arm: Arm, runs: Sequence[ComparedRun], reference: dict[int, ComparedRun], metric: str) -> ComparedArm:
    """One arm, paired with the runs of ``reference`` that have the same seed."""
    pairs = [(run, reference[run.seed]) for run in runs if run.seed in reference]

    def difference(which: str) -> Difference | None:
        if all(run.says_nothing(which) for pair in pairs for run in pair):
            return None
        ours, theirs = ([getattr(run, which)[metric] for run in part] for part in zip(*pairs, strict=True))
        return paired_difference(ours, theirs)

    return ComparedArm(
        **vars(totals(arm.name, arm.recipe.model.name, runs, metric)),
        last_difference=difference("last"),
        best_difference=difference("best"),
    )


def totals(name: str, model: str, runs: Sequence[ComparedRun], metric: str) -> Totals:
    """What ``runs`` come to, by ``metric``."""
    search = sum(run.search_seconds for run in runs)
    rest = sum(run.seconds for run in runs) - search

    def mean(of: str) -> float:
        return fmean(getattr(run, of) for run in runs)

    return Totals(
        name=name,
        model=model,
        seeds=[run.seed for run in runs],
        adapter_parameters=round(mean("adapter_parameters")),
        carried_parameters=round(mean("carried_parameters")),
        head_parameters=round(mean("head_parameters")),
        budget=round(mean("budget")),
        epochs=mean("epochs"),
        last=summarise([run.last[metric] for run in runs]),
        best=summarise([run.best[metric] for run in runs]),
        seconds=mean("seconds"),
        search_overhead=search / rest if rest > 0 else 0.0,
        runs=list(runs),
    )


def warnings(arms: Sequence[Arm], compared: Sequence[ComparedArm]) -> list[str]:
    """What to know before believing the table."""
    there = {arm.name: arm for arm in compared}
    told = [f"{arm.name} has no finished run" for arm in arms if arm.name not in there]
    told += [collapse_words(arm) for arm in compared if arm.collapsed]
    few = [f"{arm.name} {len(arm.runs)}" for arm in compared if len(arm.runs) < FEW]
    if few:
        told.append(f"fewer than {FEW} seeds, read the intervals with care: {', '.join(few)}")
    if lone := [arm.name for arm in compared if len(arm.runs) == 1]:
        told.append(f"one run does not tell how much a run varies: {', '.join(lone)}")
    first = there.get(arms[0].name)
    for arm in compared:
        if first is not None and arm is not first:
            told += differences(arm, first)
    return told


def collapse_words(arm: Totals) -> str:
    """Which runs of an arm learnt nothing."""
    seeds = ", ".join(str(run.seed) for run in arm.runs if run.collapsed)
    many = f"{arm.collapsed} of {len(arm.runs)} runs" if len(arm.runs) > 1 else "the run"
    return f"{arm.name}: {many} collapsed to one class for every validation row (seed {seeds}), so differences to it mean little"


def differences(arm: ComparedArm, first: ComparedArm) -> list[str]:
    """In what else than its recipe's idea an arm differs from the first."""
    told = []
    for what, ours, theirs in (
        ("adapter parameters", arm.adapter_parameters, first.adapter_parameters),
        ("epochs", arm.epochs, first.epochs),
    ):
        if apart(ours, theirs):
            told.append(f"{arm.name} has {ours:,.6g} {what}, and {first.name} {theirs:,.6g}: the budgets differ")
    if arm.model != first.model:
        told.append(f"{arm.name} is on {arm.model}, and {first.name} on {first.model}")
    if arm.seeds != first.seeds:
        common = [str(seed) for seed in arm.seeds if seed in first.seeds]
        over = f"the difference is over {', '.join(common)}" if common else "none in common, so there is no difference"
        told.append(f"{arm.name} has other seeds than {first.name}: {over}")
    return told


def apart(ours: float, theirs: float) -> bool:
    """Whether two amounts differ by more than is close."""
    return abs(ours - theirs) > CLOSE * theirs


def as_csv(arms: Sequence[Totals], settings: Mapping[str, Mapping[str, Any]] = NO_SETTINGS) -> str:
    """All runs, a line each. settings: an arm's name -> what stands behind it."""
    lines: list[dict[str, Any]] = []
    for arm in arms:
        for run in arm.runs:
            line = {"side": arm.name, **settings.get(arm.name, {}), **run.to_dict()}
            scores = {f"{which}_{name}": value for which in ("last", "best") for name, value in line.pop(which).items()}
            path = line.pop("path")
            lines.append(line | scores | {"path": path})
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    return text.getvalue()
