"""The metrics as ``evaluate.Metric`` modules that come with the package: no network, and no file left in any cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Sequence, Value

from lorakit.tasks import formulas

SEVERAL = "multilabel"
"""The configuration of a metric whose rows are a 0 or 1 for each label, as the f1 of the library evaluate has it."""


class LocalMetric(evaluate.Metric):
    """A metric that is one formula; predictions and references are collected in memory."""

    formula: Callable[..., float]
    key: str
    dtype = "int64"

    def __init__(self, **settings: Any):
        super().__init__(keep_in_memory=True, **settings)

    def _build_data_dir(self) -> str:
        # The base class would make a folder in the home directory's cache, for files that are never written.
        return str(self._data_dir_root)

    def _info(self) -> evaluate.MetricInfo:
        kind = Sequence(Value(self.dtype)) if self.config_name == SEVERAL else Value(self.dtype)
        features = Features({"predictions": kind, "references": kind})
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "", citation="", inputs_description="", features=features
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **settings: Any) -> dict[str, float] | None:
        """The score of what is given, in its kind of number and without a table of Arrow in between; else of what was added before."""
        if predictions is None or references is None:
            scores: dict[str, float] | None = super().compute(
                predictions=predictions, references=references, **settings
            )
            return scores
        return self._compute(
            *(np.asarray(each).astype(self.dtype, casting="same_kind") for each in (predictions, references))
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {self.key: type(self).formula(np.asarray(predictions), np.asarray(references))}


class Accuracy(LocalMetric):
    """The share of predictions that are right."""

    key, formula = "accuracy", staticmethod(formulas.accuracy)


class F1(LocalMetric):
    """F1 of class 1 of two."""

    key, formula = "f1", staticmethod(formulas.f1)


class MacroF1(LocalMetric):
    """The mean of each class's F1."""

    key, formula = "macro_f1", staticmethod(formulas.macro_f1)


class Matthews(LocalMetric):
    """Matthews' correlation coefficient."""

    key, formula = "matthews", staticmethod(formulas.matthews)


class QuadraticKappa(LocalMetric):
    """Cohen's kappa of grades, with quadratic weights."""

    key, formula = "quadratic_kappa", staticmethod(formulas.quadratic_kappa)


class MicroF1(LocalMetric):
    """F1 over all pairs of a row and a label."""

    key, formula = "micro_f1", staticmethod(formulas.micro_f1)


class SubsetAccuracy(LocalMetric):
    """The share of rows whose labels are all right."""

    key, formula = "subset_accuracy", staticmethod(formulas.subset_accuracy)


class Pearson(LocalMetric):
    """Pearson's linear correlation."""

    key, formula, dtype = "pearson", staticmethod(formulas.pearson), "float64"


class Spearman(LocalMetric):
    """Spearman's rank correlation."""

    key, formula, dtype = "spearman", staticmethod(formulas.spearman), "float64"


class MeanSquaredError(LocalMetric):
    """The mean squared error."""

    key, formula, dtype = "mse", staticmethod(formulas.mse), "float64"


class MeanAbsoluteError(LocalMetric):
    """The mean absolute error."""

    key, formula, dtype = "mae", staticmethod(formulas.mae), "float64"


class R2(LocalMetric):
    """The share of the variance that is explained."""

    key, formula, dtype = "r2", staticmethod(formulas.r2), "float64"


OF_CLASSES = (Accuracy, F1, MacroF1, Matthews, QuadraticKappa)
OF_LABELS = (MicroF1, SubsetAccuracy)
OF_NUMBERS = (Pearson, Spearman, MeanSquaredError, MeanAbsoluteError, R2)
MODULES: dict[str, type[LocalMetric]] = {module.key: module for module in (*OF_CLASSES, *OF_LABELS, *OF_NUMBERS)}
