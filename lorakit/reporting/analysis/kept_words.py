"""What an update does to its own task and to others, in plain words and as a table: no more than the intervals say."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from lorakit.backbone.readout import READOUTS
from lorakit.reporting.analysis.records import Kept, RunAnalysis, TaskBeside, TaskKept
from lorakit.reporting.page import Numbers
from lorakit.reporting.stats import Difference
from lorakit.reporting.summary import listed
from lorakit.reporting.tables import counted

COLUMNS = (
    "held-out rows",
    "most common class",
    "before",
    "after",
    "difference",
    "95 % interval",
    "random",
    "after less random",
    "95 % interval",
)
FEWEST = 6
"""Rows that have to differ: of five that all do so in one direction the exact sign test's two-sided p is 2 / 2^5, above 0.05; the
bootstrap's interval leaves 0 out from four."""


def kept_words(found: Kept, *, told: bool) -> list[str]:
    """Task by task, its own the first; told: whether it has been said how to read that."""
    if found.without:
        return [f"No probe was fitted: {found.without}."]
    words = [f"Its own task has no probe: {found.without_own}."] * bool(found.without_own)
    words += [f"{name} is what it learnt itself." for name in found.same]
    if not found.tasks:
        return words
    words += [line for task in found.tasks for line in task_words(task)]
    others = [task for task in found.tasks if not task.own]
    if len(others) > 1:
        lost, gained = (sum(sign * shown(task.change) > 0 for task in others) for sign in (-1, 1))
        words.append(
            f"Of {len(others)} other tasks, {lost} lost by it, {gained} gained, and {len(others) - lost - gained} show no difference."
        )
    if any(task.trained_on is None for task in found.tasks):
        words.append(
            "Nothing tells which of these texts the run was trained on: it came without the digests of its rows."
        )
    if found.without_random:
        words.append(f"There is no random update to set beside it: {found.without_random}.")
    elif found.random_left:
        words.append(
            f"The random update is of the weights alone, and has none of the rest: {listed(found.random_left)}."
        )
    if told:
        return words
    return [
        *words,
        "A probe is logistic regression on what the head reads, fitted anew without the update (before), with it (after), and with a "
        "Gaussian update of the same norm and rank at every site (random, drawn once). "
        f"It sees {told_rows(found.tasks)} and nothing else; those of the run's own task are such as it was trained on.",
        "Intervals pair the answers row by row, over the held-out rows alone: other training rows or another seed are not in them. What "
        "the run's own head gets is another number.",
    ]


def told_rows(tasks: Sequence[TaskKept]) -> str:
    """How many rows probes are fitted on."""
    numbers = sorted({task.train_rows for task in tasks})
    return (
        counted(numbers[0], "training row") if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,} training rows"
    )


def task_words(task: TaskKept) -> list[str]:
    """One task: before, after, and beside a random update; then what to know of these numbers."""
    learnt = ", which it learnt," if task.own else ""
    told = (
        f"On {task.name}{learnt} a probe gets {share(task.before)} of {counted(task.rows, 'held-out row')} right before and "
        f"{share(task.after)} after: {difference_words(task.change)}."
    )
    if task.random is not None and task.beside_random is not None:
        than = "no difference from what was learnt that these rows show"
        if shown(task.beside_random):
            more = "more" if task.beside_random.mean > 0 else "less"
            than = f"what was learnt gets {points(abs(task.beside_random.mean), sign='')} points {more} ({bounds(task.beside_random)})"
        told += f" With a random update it is {share(task.random)}: {than}."
    words = [told]
    if shown(task.over_majority) < 1:
        little = "" if task.own else ": it knew little of it, and a loss says little"
        words.append(
            f"Before, that is no more than always answering {task.name}'s most common class gets ({share(task.majority)}), as far as these "
            f"rows show{little}."
        )
    if task.unknown:
        words.append(
            f"Held-out rows of {task.name} whose class no row has that its probe is fitted on: {task.unknown:,}."
        )
    if task.repeated:
        words.append(f"Held-out texts of {task.name} that its probe is fitted on too: {task.repeated:,}.")
    if task.trained_on:
        what = ", and what it learnt by heart is in these numbers" if task.own else "; it is not wholly another task"
        words.append(f"Held-out texts of {task.name} that the run was trained on: {task.trained_on:,}{what}.")
    if task.fitted_on and not task.own:
        words.append(
            f"Of the rows that the probe of {task.name} is fitted on, the run was trained on {task.fitted_on:,} texts."
        )
    if task.other_readout:
        words.append(
            f"The head compares two texts, and {task.name}'s rows have one: {READOUTS[task.readout].told} was read of them."
        )
    return words


def beside_words(task: TaskBeside, first: str, second: str) -> str:
    """A task as two runs leave it."""
    if task.change.ties == task.change.n:
        return f"Probes of {task.name} get the same rows right in {first} and {second}."
    if not shown(task.change):
        told = f"{second} less {first}: {points(task.change.mean)} points, {bounds(task.change)}"
        return f"Between their probes of {task.name} there is no difference that these rows show ({told})."
    more = "more" if task.change.mean > 0 else "less"
    gap = points(abs(task.change.mean), sign="")
    return f"Of {task.name} a probe gets {gap} points {more} right in {second} than in {first} ({bounds(task.change)})."


def difference_words(found: Difference) -> str:
    """A difference of accuracies as its interval has it."""
    if found.ties == found.n:
        return "the same rows are right"
    told = f"{points(found.mean)} points"
    return (
        f"{told} ({bounds(found)})" if shown(found) else f"no difference that these rows show ({told}, {bounds(found)})"
    )


def shown(found: Difference) -> int:
    """1 or -1 where the interval leaves 0 out, above or below it, and ``FEWEST`` rows differ; else 0."""
    return 0 if found.n - found.ties < FEWEST else outside(found)


def outside(found: Difference) -> int:
    """1 or -1 where the interval is above or below 0; else 0."""
    return int(found.low > 0) - int(found.high < 0)


def bounds(found: Difference) -> str:
    """``95 % interval -1.0 to +2.4``, and where that leaves out a 0 that cannot be left out, why."""
    told = f"{100 * found.level:.0f} % interval {interval(found)}"
    few = outside(found) and not shown(found)
    return told + f", of {counted(found.n - found.ties, 'row')} that differ, too few to tell" * bool(few)


def interval(found: Difference) -> str:
    """``-1.0 to +2.4``, in points."""
    return f"{points(found.low)} to {points(found.high)}"


def points(value: float, *, sign: str = "+") -> str:
    """A difference of shares in points: ``+1.4``."""
    return format(100 * value + 0.0, f"{sign}.1f")


def share(value: float) -> str:
    """An accuracy: ``86.4 %``."""
    return f"{100 * value:.1f} %"


def kept_facts(run: RunAnalysis, whose: str) -> list[tuple[str, str]]:
    """The numbers at the top: what its own task gained, and the others on the average."""
    tasks = run.kept.tasks if run.kept is not None else []
    found = []
    for name, chosen in (
        ("own task", [task for task in tasks if task.own]),
        ("other tasks", [task for task in tasks if not task.own]),
    ):
        if chosen:
            told = f"{points(fmean(task.change.mean for task in chosen))} points"
            random = [task.random_change.mean for task in chosen if task.random_change is not None]
            found.append((f"{name}{whose}", told + (f" (random {points(fmean(random))})" if random else "")))
    return found


def kept_tables(runs: Sequence[RunAnalysis]) -> list[Numbers]:
    """A row for each run and task, where there are some."""
    rows = [
        [f"{run.name}, {task.name}" + " (its own)" * task.own, *cells(task)]
        for run in runs
        if run.kept is not None
        for task in run.kept.tasks
    ]
    if not rows:
        return []
    note = (
        "The share of held-out rows that a linear probe of the features gets right: before, without the update; after, with it; random, "
        "with a Gaussian one of its norms and ranks in its place. Most common class: what always answering that of the training rows "
        "gets. Differences in points, with the bootstrap interval of the paired rows, which is too narrow where fewer than "
        f"{FEWEST} rows differ."
    )
    return [Numbers("Its own task and others", ("run, task", *COLUMNS), rows, note)]


def cells(task: TaskKept) -> list[str]:
    """The numbers of one task."""
    beside = task.beside_random
    return [
        f"{task.rows:,}",
        *map(share, (task.majority, task.before, task.after)),
        points(task.change.mean),
        interval(task.change),
        "" if task.random is None else share(task.random),
        *(("", "") if beside is None else (points(beside.mean), interval(beside))),
    ]
