"""The tables and the figure of a question, from the units that are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from evidence_stats import NATS, POINTS, Array, Gap, counts, gap, over_tasks, raw_losses, right, tempered_losses
from evidence_unit import Outcome
from numpy.typing import NDArray
from readme_tables import grid

from lorakit.artifacts.files import write_json, write_text

MEASURES = {"log_loss": NATS, "accuracy": POINTS}


@dataclass(frozen=True)
class Cell:
    """A side on a task at a rate: by seed the losses and hits of every test row (rows,), and what its trainings told; most_common:
    the share of the most common label; curve: shares of the steps and the log-loss of the first test rows there (points,).
    """

    side: str
    task: str
    rate: str
    losses: dict[int, Array]
    raw: dict[int, Array]
    hits: dict[int, Array]
    told: dict[int, dict[str, Any]]
    most_common: float
    curve: tuple[Array, Array] | None

    @classmethod
    def read(cls, question: Any, side: str, task: str, rate: str) -> Cell | None:
        """What is there of it; None where nothing is."""
        units = [question.unit(side, task, rate, seed) for seed in question.seeds]
        found = {unit.seed: Outcome.read(unit.file(question.out)) for unit in units if unit.file(question.out).exists()}
        if not found:
            return None
        return cls(
            side,
            task,
            rate,
            {seed: tempered_losses(each.logits, each.labels) for seed, each in found.items()},
            {seed: raw_losses(each.logits, each.labels) for seed, each in found.items()},
            {seed: right(each.logits, each.labels) for seed, each in found.items()},
            {seed: each.told for seed, each in found.items()},
            most_common(next(iter(found.values())).labels),
            mean_curve([*found.values()]),
        )

    def better_than(self, other: Cell, measure: str) -> Array | None:
        """How much better it is than another (seeds, rows), of seeds that both have; None where there are none."""
        seeds = [seed for seed in self.losses if seed in other.losses]
        mine, its = (self.losses, other.losses) if measure == "log_loss" else (self.hits, other.hits)
        sign = -1 if measure == "log_loss" else 1
        return np.stack([sign * (mine[seed] - its[seed]) for seed in seeds]) if seeds else None

    def row(self) -> tuple[str, ...]:
        """Its own numbers."""
        told = list(self.told.values())
        lrs = sorted({each["lr"] for each in told})
        rate = f"{lrs[0]:.2g}" if len(lrs) == 1 else f"{lrs[0]:.2g} to {lrs[-1]:.2g}"
        return (
            self.task,
            self.side,
            rate,
            str(len(self.losses)),
            f"{round(mean(each['adapter_parameters'] for each in told)):,}",
            f"{average(self.losses):.4f}",
            f"{average(self.raw):.4f}",
            f"{average(self.hits):.4f}",
            f"{median(each['seconds'] + each['prepared'] for each in told):.0f}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, by seed."""
        measured = {"log_loss": self.losses, "raw_log_loss": self.raw, "accuracy": self.hits}
        by_seed = {name: {seed: float(rows.mean()) for seed, rows in of.items()} for name, of in measured.items()}
        kept = ("lr", "steps", "seconds", "prepared", "adapter_parameters", "head_parameters", "train_rows")
        told = {seed: {key: each[key] for key in kept} for seed, each in self.told.items()}
        code = sorted({str((each["environment"]["git"] or {}).get("commit")) for each in self.told.values()})
        return {"side": self.side, "task": self.task, "rate": self.rate, **by_seed, "told": told, "code": code}


def most_common(labels: NDArray[np.integer[Any]]) -> float:
    """The share of the most common label."""
    return float(np.bincount(labels).max() / len(labels))


def mean_curve(outcomes: Sequence[Outcome]) -> tuple[Array, Array] | None:
    """Shares of the steps, and the tempered log-loss at each, the mean over seeds; None where none was taken."""
    taken = [each for each in outcomes if each.curve]
    if not taken:
        return None
    losses = [
        [float(tempered_losses(logits, each.labels[: len(logits)]).mean()) for logits in each.curve["logits"]]
        for each in taken
    ]
    return taken[0].curve["steps"] / taken[0].curve["steps"][-1], np.mean(losses, axis=0)


def share_to_reach(curve: tuple[Array, Array], target: float) -> float | None:
    """The share of the steps after which a log-loss is first as low as ``target``, between points by a line; None where it never is."""
    shares, losses = curve
    reached = np.flatnonzero(losses <= target)
    if not len(reached):
        return None
    place = int(reached[0])
    if place == 0:
        return float(shares[0])
    before, after = losses[place - 1], losses[place]
    return float(shares[place - 1] + (shares[place] - shares[place - 1]) * (before - target) / (before - after))


def speed_table(cells: Sequence[Cell], reference: str) -> str:
    """Side by task: the share of the steps that it needs for the log-loss at which the reference ends."""
    ends = {cell.task: float(cell.curve[1][-1]) for cell in cells if cell.side == reference and cell.curve}
    rows: dict[str, dict[str, str]] = {}
    for cell in cells:
        if cell.curve and cell.task in ends:
            share = share_to_reach(cell.curve, ends[cell.task])
            rows.setdefault(cell.side, {})[cell.task] = "never" if share is None else f"{share:.2f}"
    return grid(("side", *ends), [(side, *(of.get(task, "") for task in ends)) for side, of in rows.items()])


def average(by_seed: dict[int, Array]) -> float:
    """Over seeds and rows."""
    return float(np.mean([rows.mean() for rows in by_seed.values()]))


def cells_of(question: Any, sides: Sequence[str] | None = None) -> list[Cell]:
    """All that is there, in the question's order."""
    wanted = [
        (side, task, rate)
        for task in question.tasks
        for side in sides or question.sides
        for rate in question.chosen(side, task)
    ]
    found = [Cell.read(question, *each) for each in wanted]
    return [cell for cell in found if cell is not None]


def differences(question: Any, cells: Sequence[Cell]) -> dict[str, dict[str, dict[str, Gap]]]:
    """Side -> measure -> task, or ``all tasks``, -> how much better than the reference."""
    found: dict[str, dict[str, dict[str, Gap]]] = {}
    base = {cell.task: cell for cell in cells if cell.side == question.reference}
    for side in question.sides:
        if side == question.reference:
            continue
        for measure in MEASURES:
            arrays = {
                cell.task: values
                for cell in cells
                if cell.side == side
                and cell.task in base
                and (values := cell.better_than(base[cell.task], measure)) is not None
            }
            if arrays:
                gaps = {task: gap(values) for task, values in arrays.items()}
                found.setdefault(side, {})[measure] = {"all tasks": over_tasks([*arrays.values()]), **gaps}
    return found


def alive(gaps: dict[str, dict[str, Gap]]) -> bool:
    """Whether a side can still be better by what counts: its intervals over all tasks reach so far."""
    return any(gaps[measure]["all tasks"].high >= least for measure, least in MEASURES.items() if measure in gaps)


def report(question: Any) -> str:
    """The tables as Markdown; they, the numbers and the figure are also written beside the units."""
    cells = cells_of(question)
    if not cells:
        return f"{question.name}: nothing is there yet"
    told = grid(
        ("task", "side", "rate", "seeds", "parameters", "log-loss", "plain log-loss", "accuracy", "seconds"),
        [cell.row() for cell in cells],
    )
    text = [f"## {question.given['title']}", "", told]
    record = {"question": question.given, "cells": [cell.to_dict() for cell in cells]}
    if question.given.get("every_rate"):
        from evidence_rates import rate_tables

        tables, record["rates"] = rate_tables(cells, {cell.task: cell.most_common for cell in cells})
        text = [text[0], "", tables]
    else:
        gaps = differences(question, cells)
        rows = [
            (side, task, str(values), str(other), counts(values, NATS), counts(other, POINTS))
            for side, of in gaps.items()
            for (task, values), other in zip(of["log_loss"].items(), of["accuracy"].values(), strict=True)
        ]
        head = ("side", "task", "nats better", "accuracy better", "by log-loss", "by accuracy")
        text += ["", f"Beside `{question.reference}`, above 0 is better:", "", grid(head, rows)]
        record["differences"] = {
            side: {measure: {task: each.to_dict() for task, each in by.items()} for measure, by in of.items()}
            for side, of in gaps.items()
        }
        if any(cell.curve for cell in cells):
            what = f"The share of the steps that a side needs for the log-loss at which `{question.reference}` ends:"
            text += ["", what, "", speed_table(cells, question.reference)]
        draw(gaps, question.out / f"{question.name}.png", question.given["title"])
    write_json(question.out / f"{question.name}.json", record)
    write_text(question.out / f"{question.name}.md", "\n".join(text) + "\n")
    return "\n".join(text)


def draw(gaps: dict[str, dict[str, dict[str, Gap]]], path: Path, title: str) -> None:
    """A forest plot: of each side the difference in log-loss by task, with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [(side, task, each) for side, of in gaps.items() for task, each in of["log_loss"].items()]
    if not lines:
        return
    figure, axis = pyplot.subplots(figsize=(7, 0.8 + 0.25 * len(lines)), layout="constrained")
    for place, (_, task, each) in enumerate(lines):
        whole = task == "all tasks"
        axis.plot([each.low, each.high], [place, place], color="black", linewidth=2 if whole else 1)
        axis.plot(each.mean, place, "D" if whole else "o", color="black", markersize=5 if whole else 4)
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.axvspan(-NATS, NATS, color="grey", alpha=0.15, linewidth=0)
    axis.set_yticks(range(len(lines)), [f"{side}, {task}" for side, task, _ in lines], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("nats better than the reference (grey: too little to count)")
    axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
