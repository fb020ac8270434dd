"""A trained classifier as a scoring needs it: the logits of a split's rows, wherever its weights came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.recipe.schema import Recipe
from lorakit.tasks.batching import Encoded
from lorakit.tasks.task import TaskData
from lorakit.training.evaluation import predict_logits
from lorakit.workflow.accelerator import put_on_device
from lorakit.workflow.parts import cut_of, encode_split


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier, wherever it came from.

    recipe: the text length and batch size it is used with; source: what to call it; temperature: for its probabilities; outputs:
    for each label of the task, the model's output for it, None where they stand in the task's order; learnt: what it learnt, where
    that is another task than the one it is used for; runs: the folders of its weights, where they are runs.
    """

    adapted: AdaptedModel
    recipe: Recipe
    source: str
    temperature: float = 1.0
    outputs: list[int] | None = None
    learnt: str = ""
    runs: tuple[Path, ...] = ()

    def logits(self, data: TaskData, split: str) -> tuple[Encoded, NDArray[np.floating]]:
        """A tokenised split, and the logits (rows, labels) in the order of its task's labels."""
        encoded = encode_split(data, split, self.adapted.backbone, cut_of(self.recipe.task, self.adapted.backbone))
        objective = put_on_device(self.adapted.model, self.recipe, regression=data.task.regression)
        logits = predict_logits(self.adapted.model, encoded, objective, self.recipe.evaluation.batch_size)
        return encoded, logits if self.outputs is None else logits[:, self.outputs]
