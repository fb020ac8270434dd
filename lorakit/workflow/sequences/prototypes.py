"""Which task a row is of, by what the frozen model makes of it (Wistuba et al. 2023, CoLoR, arXiv 2311.17601, section 3).

    P_t = the centres of k-means, k = `prototypes`, over the features of task t's training rows
    task of x = the t whose P_t has the centre nearest to the features of x          Euclidean

Features are the mean of the frozen model's last states over a row's tokens, of at most FROZEN_ROWS training rows a task; CoLoR, on images,
takes those of the class token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from lorakit.backbone.readout import MEAN
from lorakit.errors import RecipeError
from lorakit.training.seeds import derive_seed
from lorakit.workflow.frozen_features import read_features, training_features
from lorakit.workflow.parts import Features, Parts, encode_rows

MODULUS = 2**32  # of scikit-learn's seeds


def centres(features: Features, number: int, seed: int) -> NDArray[np.float64]:
    """The prototypes (at most ``number``, width) of rows whose features are (rows, width)."""
    from sklearn.cluster import KMeans

    least = min(number, len(np.unique(features, axis=0)))
    found = KMeans(least, n_init=10, random_state=derive_seed(seed, "prototypes") % MODULUS).fit(features)
    return np.asarray(found.cluster_centers_, dtype=np.float64)


def prototypes_of(parts: Parts, number: int) -> NDArray[np.float64]:
    """Those of a task whose parts are loaded with their training rows."""
    found = training_features(parts, MEAN)[MEAN]
    if found is None:
        raise RecipeError(
            f"'{parts.backbone.name}' has no state for each token", key="continual.method", valid="separate"
        )
    return centres(found, number, parts.recipe.run.seed)


def features_of(parts: Parts, rows: Dataset) -> Features:
    """Features (rows, width) of rows of any task, read as the task of ``parts`` reads texts."""
    return read_features(parts, encode_rows(rows, parts.backbone, parts.cut), [MEAN])[MEAN]


def nearest_task(features: Sequence[Features], prototypes: Sequence[NDArray[np.float64]]) -> NDArray[np.int64]:
    """For each row the task, by its place among ``prototypes``, that has the nearest centre; features (rows, width): as each task reads
    the rows, for whose row it is nobody knows.
    """
    pairs = zip(features, prototypes, strict=True)
    distances = [np.linalg.norm(rows[:, None] - own[None], axis=2).min(axis=1) for rows, own in pairs]
    return np.argmin(distances, axis=0)
