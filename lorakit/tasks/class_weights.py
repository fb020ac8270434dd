"""How much the rows of each class weigh in the loss: named one by one, or by how rare they are among the rows trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import LorakitError, Problem, RecipeError, nearest
from lorakit.tasks.labels import fold, written
from lorakit.tasks.table import SHOWN

NONE, BALANCED = "none", "balanced"
KEY = "training.class_weights"

ClassWeights = str | Mapping[str, float]
"""``none``, ``balanced``, or the weights of some labels by name."""


def class_weights(
    setting: ClassWeights, names: tuple[str, ...], labels: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """The weight of each class (classes,), None where all rows count the same.

    Args:
        setting: ``none``; ``balanced``, which is n / (classes * rows of the class), so that all classes weigh the same together
            (King and Zeng 2001; scikit-learn's ``compute_class_weight``), a class without rows weighing 1; or label -> weight,
            labels left out weighing 1.
        names: label names in the order of their ids.
        labels: class ids (n,) of the rows trained on.

    Raises:
        RecipeError: for names that are no labels.

    Example:
        >>> class_weights("balanced", ("no", "yes"), np.array([0, 0, 0, 1]))
        array([0.66666667, 2.        ])
    """
    if setting == NONE or not setting:
        return None
    weights = np.ones(len(names))
    if isinstance(setting, str):
        from sklearn.utils.class_weight import compute_class_weight

        present = np.unique(labels)
        weights[present] = compute_class_weight(BALANCED, classes=present, y=labels)
        return weights
    for name, place in places(tuple(setting), names, KEY).items():
        weights[place] = setting[name]
    return weights


def label_weights(
    setting: ClassWeights, names: tuple[str, ...], labels: NDArray[np.int8]
) -> NDArray[np.float64] | None:
    """The same of several labels a row: how much rows with each label weigh against those without it (labels,), torch's ``pos_weight``.

    ``balanced`` is rows without it / rows with it, so that both weigh the same together; 1 for a label that no row or every row has.
    labels: 0 and 1 (n, labels).
    """
    if setting != BALANCED:
        return class_weights(setting, names, np.empty(0, np.int64))
    has = labels.sum(axis=0, dtype=np.int64)
    return np.where((has > 0) & (has < len(labels)), (len(labels) - has) / np.maximum(has, 1), 1.0)


def places(
    asked: tuple[str, ...], names: tuple[str, ...], key: str, *, error: type[LorakitError] = RecipeError
) -> dict[str, int]:
    """Where in ``names`` each label stands that is ``asked`` for. ``error`` about ``key`` for those that are none, or the same one."""
    ids = {fold(written(name) or name): place for place, name in enumerate(names)}
    found: dict[str, int] = {}
    problems = []
    valid = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")
    for name in asked:
        place = ids.get(fold(written(name) or name))
        if place is None:
            problems.append(Problem(f"there is no label '{name}'", key=key, valid=valid, hint=nearest(name, names)))
        elif place in found.values():
            problems.append(Problem(f"label '{names[place]}' is given twice", key=key, valid="each label once"))
        else:
            found[name] = place
    if problems:
        raise error(problems)
    return found
