"""What the points of a sweep come to: their order, what to be wary of, and the figure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.recipe.values import written
from lorakit.reporting.sweep_figure import sweep_figure
from lorakit.result import Result
from lorakit.workflow.experiments.arms import rises
from lorakit.workflow.experiments.grid import is_number, short_names
from lorakit.workflow.experiments.totals import FEW, Totals

MOST_LINES = 6  # in the figure; with more values of what else varies there are dots alone
OPTIMISTIC = (
    "the best of {} points is chosen by the validation split, which makes its own score there optimistic: --holdout 0.2 chooses by "
    "training rows, and scores the chosen one alone on the validation split"
)


@dataclass(frozen=True)
class Reached(Result):
    """How far a trial came that was pruned: its evaluations, the epoch of the last one, and the score of the first seed there."""

    evaluations: int
    epoch: float
    score: float


@dataclass(frozen=True)
class SweptPoint(Result):
    """A point: what varies there, and what its finished runs come to; None where there are none. reached: where it was pruned."""

    name: str
    settings: dict[str, Any]
    came_to: Totals | None
    reached: Reached | None = None


def rank(point: SweptPoint, *, seeds: int, higher: bool) -> tuple[bool, bool, float, float]:
    """Orders points: those with all seeds first, by the mean; of two alike the smaller one; then those that were pruned, the farthest
    first.
    """
    if point.came_to is None:
        if point.reached is None:
            return True, True, 0.0, 0.0
        return True, False, -point.reached.epoch, -point.reached.score if higher else point.reached.score
    mean = point.came_to.last.mean
    return False, len(point.came_to.seeds) < seeds, -mean if higher else mean, point.came_to.adapter_parameters


def warnings(
    points: Sequence[SweptPoint], seeds: Sequence[int], holdout: float | None, *, listed: Collection[str]
) -> list[str]:
    """What to know before believing the first line of the table.

    holdout: the share of the training rows that chose, where these did; listed: the keys whose values were listed rather than drawn.
    """
    told = [f"{it.name} has no finished run" for it in points if it.came_to is None and it.reached is None]
    there = [point.came_to for point in points if point.came_to is not None]
    told += [f"{it.name} has {len(it.seeds)} of {len(seeds)} seeds" for it in there if len(it.seeds) < len(seeds)]
    if len(there) > 1:
        first, second = there[:2]
        if holdout is None:
            told.append(OPTIMISTIC.format(len(there)))
        if len(seeds) < FEW:
            told.append(
                f"{len(seeds)} seeds tell little of points that are close: choose between the best ones with more"
            )
        if abs(first.last.mean - second.last.mean) <= max(first.last.sd, second.last.sd):
            told.append(f"{first.name} and {second.name} are closer than their seeds scatter")
    for key, values in numbers(points).items():
        best = points[0].settings[key]
        if key in listed and len(values) > 2 and best in (values[0], values[-1]):
            end = "smallest" if best == values[0] else "largest"
            told.append(f"the best {key}, {best:g}, is the {end} that was tried: there may be better ones beyond")
    return told


def numbers(points: Sequence[SweptPoint]) -> dict[str, list[float]]:
    """The keys that vary over numbers alone, with these numbers in order."""
    every = {key: [point.settings[key] for point in points] for key in points[0].settings}
    varying = {key: values for key, values in every.items() if all(map(is_number, values))}
    return {key: sorted(set(values)) for key, values in varying.items() if len(set(values)) > 1}


def draw(points: Sequence[SweptPoint], metric: str, path: Path) -> Path | None:
    """The metric against the key with most numbers, where one varies over numbers; a line for each value of what else varies."""
    there = [point for point in points if point.came_to is not None]
    varying = numbers(there)
    if not varying:
        return None
    key = max(varying, key=lambda name: len(varying[name]))
    rest = {point.name: others(point, key) for point in there}
    joined = len(set(rest.values())) <= MOST_LINES
    lines: dict[str, dict[float, list[float]]] = {}
    for point in there:
        line = lines.setdefault(rest[point.name] if joined else "", {})
        scores = [run.last[metric] for run in point.came_to.runs] if point.came_to else []
        line.setdefault(point.settings[key], []).extend(scores)
    ordered = {name: lines[name] for name in sorted(lines)}
    return sweep_figure(ordered, key, metric, path, rises=rises(metric), joined=joined)


def others(point: SweptPoint, key: str) -> str:
    """``rank=4, method=dora``: what varies besides ``key``."""
    names = short_names(list(point.settings))
    return ", ".join(f"{names[name]}={written(value)}" for name, value in point.settings.items() if name != key)
