"""Where a model that predicts a number is wrong: by how much, on which texts most, and by length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lorakit.tasks.diagnosis import MOST_ERRORS, Slice, by_length, text_of
from lorakit.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class NumberError:
    """A row and how far its number is off.

    Attributes:
        row: its number at the source.
        text: of the row; both texts of a pair with a tab between them.
        label: the number it has.
        predicted: the one it got.
    """

    row: int
    text: str
    label: float
    predicted: float


@dataclass(frozen=True)
class NumberDiagnosis:
    """Where a model that predicts a number is wrong.

    Attributes:
        mae: the mean absolute error.
        bias: the mean of predicted minus labelled.
        r2: the share of the variance that is explained.
        errors: the ten largest, or fewer.
        by_length: the rows in thirds by their tokens.
    """

    mae: float
    bias: float
    r2: float
    errors: list[NumberError]
    by_length: list[Slice]


def diagnose_numbers(
    task: Task,
    predictions: NDArray[np.floating],
    references: NDArray[np.floating],
    lengths: NDArray[np.int64],
    idx: NDArray[np.int64],
    split: Dataset,
) -> NumberDiagnosis:
    """All of it: predictions and references (n,), tokens (n,), numbers at the source (n,); split: the rows' texts."""
    from lorakit.tasks.formulas import mae, r2

    off = predictions.astype(np.float64) - references
    worst = np.argsort(-np.abs(off), kind="stable")[:MOST_ERRORS]
    errors = [
        NumberError(int(idx[row]), text_of(split[row]), float(references[row]), float(predictions[row]))
        for row in worst.tolist()
        if off[row]
    ]
    thirds = by_length(task, predictions, references, lengths)
    return NumberDiagnosis(mae(predictions, references), float(off.mean()), r2(predictions, references), errors, thirds)
