"""Rows of a custom task's training file that are held out, where it names no validation rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

    from lorakit.recipe.schema import TaskSection

HOLD_OUT_STREAM = 2  # keeps the held-out draw apart from the other draws of the same seed


def hold_out_of(rows: Dataset, section: TaskSection, seed: int) -> dict[str, Dataset]:
    """Train and validation splits of ``rows``: ``task.split_seed`` draws, each class by itself; numbers to predict all together.

    Where it is null ``seed`` draws among all rows, as older versions did, so that their runs keep their rows.
    """
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
    counts = shares(np.bincount(classes), fraction)
    draw = np.random.default_rng([HOLD_OUT_STREAM, seed])
    if not counts.any():  # no class has two rows
        classes[:], counts = 0, shares(np.array([total]), fraction)
    taken = [draw.permutation(np.flatnonzero(classes == each))[:count] for each, count in enumerate(counts)]
    held = np.zeros(total, bool)
    held[np.concatenate(taken)] = True
    return {"train": rows.select(np.flatnonzero(~held)), "validation": rows.select(np.flatnonzero(held))}


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
