"""The metrics as ``evaluate.Metric`` modules that come with the package: no network, and no file left in any cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value

from lorakit.tasks import formulas


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
        features = Features({"predictions": Value(self.dtype), "references": Value(self.dtype)})
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "", citation="", inputs_description="", features=features
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
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


class Pearson(LocalMetric):
    """Pearson's linear correlation."""

    key, formula, dtype = "pearson", staticmethod(formulas.pearson), "float64"


class Spearman(LocalMetric):
    """Spearman's rank correlation."""

    key, formula, dtype = "spearman", staticmethod(formulas.spearman), "float64"


class MeanSquaredError(LocalMetric):
    """The mean squared error."""

    key, formula, dtype = "mse", staticmethod(formulas.mse), "float64"


MODULES: dict[str, type[LocalMetric]] = {
    module.key: module for module in (Accuracy, F1, MacroF1, Matthews, Pearson, Spearman, MeanSquaredError)
}
