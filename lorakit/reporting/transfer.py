"""What a sequence of tasks came to, from its matrix of accuracies: R[i][j] is that of task j after task i was learnt.

    average           1/T sum_j R[T][j]                                        Lopez-Paz and Ranzato 2017, section 2, ACC
    backward          1/(T-1) sum_{j<T} R[T][j] - R[j][j]                      the same, BWT
    forward           1/(T-1) sum_{j>1} R[j-1][j] - b[j]                       the same, FWT; b: before anything is learnt
    forgetting        1/(T-1) sum_{j<T} max_{j<=i<T} R[i][j] - R[T][j]         Chaudhry et al. 2018, section 3, F

The maximum of forgetting is over the accuracies from when the task was learnt on: before that it has no trained head.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

Matrix = Sequence[Sequence[float | None]]
"""R, a row after each task; None where a task has no head yet, or was not scored."""


def known(value: float | None) -> float:
    """An accuracy that must be there. ValueError where it is not."""
    if value is None:
        raise ValueError("an accuracy of a task that was learnt is missing")
    return value


def average_accuracy(matrix: Matrix) -> float:
    """ACC: the mean over the tasks after the last one.

    Example:
        >>> average_accuracy([[0.9, None], [0.7, 0.8]])
        0.75
    """
    return mean(map(known, matrix[-1]))


def backward_transfer(matrix: Matrix) -> float:
    """BWT: how much better a task is after the last one than right after it was learnt; negative where it was forgotten."""
    return mean(known(matrix[-1][task]) - known(matrix[task][task]) for task in range(len(matrix) - 1))


def forward_transfer(matrix: Matrix, start: Sequence[float | None]) -> float | None:
    """FWT: how much better a task is before it is learnt than on the backbone alone; None where that was not scored."""
    pairs = [(matrix[task - 1][task], start[task]) for task in range(1, len(matrix))]
    if any(None in pair for pair in pairs):
        return None
    return mean(known(before) - known(fresh) for before, fresh in pairs)


def forgetting(matrix: Matrix) -> float:
    """F: how far a task fell from its best."""
    last = len(matrix) - 1
    return mean(
        max(known(matrix[after][task]) for after in range(task, last)) - known(matrix[last][task])
        for task in range(last)
    )
