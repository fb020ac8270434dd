"""Training rows that are held out: of own data without validation rows, and of any task to choose by."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import DataError
from lorakit.recipe.schema import CUSTOM
from lorakit.tasks.folds import fold_of
from lorakit.tasks.task import tasks

if TYPE_CHECKING:
    from datasets import Dataset

    from lorakit.recipe.schema import TaskSection
    from lorakit.tasks.task import TaskData

HELD_OUT = "validation"  # the split's name
REPLACED = "replaced_"  # before the names of the validation splits that it takes the place of
HOLD_OUT_STREAM = 2  # keeps the held-out draw apart from the other draws of the same seed


def without_validation(data: TaskData, share: float, seed: int, *, by_class: bool = False) -> TaskData:
    """The same data with a ``share`` of the training rows in place of the validation rows: as ``hold_out`` draws them."""
    given = data.task.validation
    rest = {name: rows for name, rows in data.splits.items() if name not in ("train", *given)}
    return replace(
        data,
        task=replace(data.task, validation=(HELD_OUT,)),
        splits=hold_out(data.splits["train"], share, seed, by_class=by_class) | rest,
        sources={name: source for name, source in data.sources.items() if name not in given},
        origin=f"{data.origin}; {share:g} of the training rows in place of the validation rows",
    )


def replaced_splits(section: TaskSection) -> dict[str, str]:
    """What to call the validation splits that ``task.holdout`` replaced -> their own names; none where it is not given."""
    if section.holdout is None:
        return {}
    known = (HELD_OUT,) if section.name == CUSTOM else tasks.get(section.name).validation
    return {REPLACED + name: name for name in known}


def hold_out_of(rows: Dataset, section: TaskSection, seed: int) -> dict[str, Dataset]:
    """Train and validation splits of ``rows``: ``task.split_seed`` draws, each class by itself; numbers to predict all together.

    Of rows with several labels each label keeps about its share (``stratified``).

    Where it is null ``seed`` draws among all rows, as older versions did, so that their runs keep their rows.
    """
    if section.folds is not None and section.fold is not None:
        labels = np.asarray(rows.with_format("numpy")["label"][:])
        return divided(rows, fold_of(labels, section.folds, section.fold, section.split_seed or 0))
    if section.split_seed is None:
        return hold_out(rows, section.validation_fraction, seed)
    return hold_out(rows, section.validation_fraction, section.split_seed, by_class=not section.regression)


def hold_out(rows: Dataset, fraction: float, seed: int, *, by_class: bool = False) -> dict[str, Dataset]:
    """Train and validation splits of ``rows``: round(fraction * n) rows are drawn by ``seed``, at least one on each side.

    by_class: each class keeps its share (``shares``). The rows stay in their order.
    """
    total = len(rows)
    if total < 2:
        raise DataError(
            "one row is not enough to train on some and validate on others",
            key="task.train",
            hint="give task.validation",
        )
    classes = np.zeros(total, np.int64)
    if by_class:
        classes = np.asarray(rows.with_format("numpy")["label"][:])
    draw = np.random.default_rng([HOLD_OUT_STREAM, seed])
    held = stratified(classes, fraction, draw) if classes.ndim == 2 else drawn_by_class(classes, fraction, draw)
    return divided(rows, held)


def divided(rows: Dataset, held: NDArray[np.bool_]) -> dict[str, Dataset]:
    """The rows that are not held out, and those that are (n,), in their order."""
    return {"train": rows.select(np.flatnonzero(~held)), HELD_OUT: rows.select(np.flatnonzero(held))}


def drawn_by_class(classes: NDArray[np.int64], fraction: float, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Which rows (n,) are held out: of each class its share."""
    counts = shares(np.bincount(classes), fraction)
    if not counts.any():  # no class has two rows
        classes, counts = np.zeros_like(classes), shares(np.array([len(classes)]), fraction)
    taken = [draw.permutation(np.flatnonzero(classes == each))[:count] for each, count in enumerate(counts)]
    held = np.zeros(len(classes), bool)
    held[np.concatenate(taken)] = True
    return held


def stratified(labels: NDArray[np.int64], fraction: float, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Which rows (n,) are held out, of rows with several labels (n, labels): iterative stratification (Sechidis et al. 2011, sec. 3).

    Label by label, that of the fewest rows left first, each of its rows goes to the side that still wants most rows with that label,
    then to the side that wants most rows; rows without labels come last. A label of two or more rows wants at least one on both sides.
    """
    total = len(labels)
    sizes = labels.sum(axis=0, dtype=np.int64)
    low, high = np.minimum(sizes // 2, 1), np.maximum(sizes - 1, 0)
    out = np.clip(fraction * sizes, low, np.maximum(low, high))
    wanted = np.stack([sizes - out, out])  # (2, labels): of the training rows, of those held out
    rest = int(np.clip(round(fraction * total), 1, total - 1))
    rows_wanted = np.array([total - rest, rest], float)
    order = draw.permutation(total)
    left, side, counts = np.ones(total, bool), np.zeros(total, np.int64), sizes.copy()
    while counts.any():
        rarest = int(np.argmin(np.where(counts > 0, counts, total + 1)))
        for row in order[left[order] & (labels[order, rarest] > 0)].tolist():
            ask = wanted[:, rarest]
            chosen = int(np.argmax(rows_wanted if ask[0] == ask[1] else ask))
            side[row], left[row] = chosen, False
            wanted[chosen] -= labels[row]
            rows_wanted[chosen] -= 1
            counts -= labels[row]
    for row in order[left[order]].tolist():
        side[row] = int(np.argmax(rows_wanted))
        rows_wanted[side[row]] -= 1
    if len(np.unique(side)) < 2:  # every label has one row
        side[order[0]] = 1 - side[order[0]]
    return side == 1


def shares(sizes: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """How many rows of each class are held out: of two or more at least one on both sides, of a single one none.

    The classes' shares are ``fraction``, rounded so that the whole is round(fraction * n) as nearly as that allows.
    """
    low, high = np.minimum(sizes // 2, 1), np.maximum(sizes - 1, 0)
    wanted = fraction * sizes
    counts = np.clip(np.floor(wanted).astype(np.int64), low, high)
    target = int(np.clip(round(fraction * int(sizes.sum())), low.sum(), high.sum()))
    for _ in range(abs(target - int(counts.sum()))):
        if counts.sum() < target:
            counts[np.argmax(np.where(counts < high, wanted - counts, -np.inf))] += 1
        else:
            counts[np.argmin(np.where(counts > low, wanted - counts, np.inf))] -= 1
    return counts
