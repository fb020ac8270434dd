"""Questions about rates: each cell's log-loss by rate, and how much a rule for the rate loses beside the best rate of the grid."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np
from evidence_report import Cell, average
from readme_tables import grid

RULES = ("auto", "usual")
COLLAPSED = 0.02
"""A seed is lost where it is right so little more often than the most common label."""


def losses(cells: Sequence[Cell]) -> dict[tuple[str, str], dict[str, Cell]]:
    """(task, side) -> rate -> its cell."""
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        found.setdefault((cell.task, cell.side), {})[cell.rate] = cell
    return found


def best(of: dict[str, Cell]) -> str:
    """The rate of the grid with the smallest log-loss, rules left out."""
    return min((rate for rate in of if rate not in RULES), key=lambda rate: average(of[rate].losses))


def found_rate(cell: Cell) -> float:
    """The mean of the rates that its seeds ended with, on the scale of factors."""
    return float(np.exp(mean(np.log(told["lr"]) for told in cell.told.values())))


def lost(cell: Cell, share: float) -> int:
    """How many of its seeds collapsed; share: of the most common label."""
    return sum(float(hits.mean()) < share + COLLAPSED for hits in cell.hits.values())


def rate_tables(cells: Sequence[Cell], shares: dict[str, float]) -> tuple[str, dict[str, Any]]:
    """The tables as Markdown, and the numbers. shares: task -> of the most common label among its test rows."""
    by_cell = {key: of for key, of in losses(cells).items() if len(set(of).difference(RULES)) > 1}
    rates = sorted({cell.rate for cell in cells if cell.rate not in RULES}, key=float)
    rules = [rule for rule in RULES if any(cell.rate == rule for cell in cells)]
    rows, numbers = [], []
    regrets: dict[str, list[float]] = {}
    for (task, side), of in by_cell.items():
        top = best(of)
        least = average(of[top].losses)
        row = [task, side, top, f"{least:.3f}"]
        number: dict[str, Any] = {"task": task, "side": side, "best": float(top), "log_loss": {}}
        for rate, cell in of.items():
            number["log_loss"][rate] = average(cell.losses)
            regrets.setdefault(rate, []).append(average(cell.losses) - least)
        for rule in rules:
            if rule not in of:
                row.append("")
                continue
            rate, regret, fallen = found_rate(of[rule]), average(of[rule].losses) - least, lost(of[rule], shares[task])
            number[rule] = {"rate": rate, "factor": rate / float(top), "regret": regret, "lost": fallen}
            row.append(f"{rate:.2g} ({rate / float(top):.2g} x), {regret:+.3f}" + f", {fallen} lost" * bool(fallen))
        rows.append(tuple(row))
        numbers.append(number)
    complete = {rate: values for rate, values in regrets.items() if len(values) == len(by_cell)}
    summary = [
        (rate, f"{np.mean(values):.4f}", f"{max(values):.4f}")
        for rate, values in sorted(complete.items(), key=lambda item: np.mean(item[1]))
    ]
    text = grid(("task", "side", "best of the grid", "log-loss", *rules), rows)
    text += "\n" + grid(("one rate or rule for all", "mean regret, nats", "worst"), summary)
    every = [
        (task, side, *(f"{average(of[rate].losses):.3f}" if rate in of else "" for rate in rates))
        for (task, side), of in by_cell.items()
    ]
    text += "\n" + grid(("task", "side", *rates), every)
    return text, {"cells": numbers, "regret": complete}
