"""Rows of a custom task in folds: each is held out once, and trained on by the others."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import DataError


def fold_of(labels: NDArray[np.generic], folds: int, fold: int, seed: int) -> NDArray[np.bool_]:
    """Which rows (n,) fold number ``fold``, from 1, of ``folds`` holds out; each class keeps its share where it has rows enough.

    labels: class ids (n,); numbers, or several labels a row (n, labels), are drawn without regard to them. scikit-learn draws.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    if len(labels) < folds:
        raise DataError(f"{len(labels)} rows cannot be {folds} folds", key="task.folds", valid=f"2 to {len(labels)}")
    by_class = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    by_class = by_class and np.bincount(labels.astype(np.int64)).max() >= folds
    kind = StratifiedKFold if by_class else KFold
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # of classes with fewer rows than folds: some folds have none of them
        parts = list(
            kind(folds, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels if by_class else None)
        )
    held = np.zeros(len(labels), bool)
    held[parts[fold - 1][1]] = True
    return held
