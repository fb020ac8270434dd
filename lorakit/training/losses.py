"""The loss of classes, and of several labels a row: cross-entropy or focal loss, weighted by class, with smoothed labels.

A row with logits z, p = softmax(z) and label y, of C classes with weights w (1 by default):

    cross-entropy   w_y * -log p_y
    smoothed        (1 - e) * w_y * -log p_y + e / C * sum_c w_c * -log p_c         Szegedy et al. 2016, section 7
    focal           w_y * (1 - p_y)^g * -log p_y                                    Lin et al. 2017, equation 5

The loss of a step is the sum over its rows by the sum of their w_y, as that of torch's ``CrossEntropyLoss`` with
``reduction="mean"``: a step counts the same whichever classes are in it, and weights that are all twice as large change nothing. The
sum of the weights is that of the whole step, of all its forward passes on all processes, so that neither changes the gradient.

Where a row has several labels, each is a question of its own: p = sigmoid(z), y is 0 or 1, and the row's loss is the mean over its C
labels, as that of transformers' ``problem_type="multi_label_classification"`` (torch's ``BCEWithLogitsLoss``):

    cross-entropy   1/C sum_c -(w_c y_c log p_c + (1 - y_c) log(1 - p_c))                          w: pos_weight
    smoothed        the same of y (1 - e) + e / 2
    focal           each of the two terms times (1 - p_c)^g or p_c^g                               Lin et al. 2017, equation 5
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import TrainingSection
from lorakit.tasks.batching import ROW_SCALE, Batch
from lorakit.tasks.class_weights import KEY, NONE, places
from lorakit.tasks.task import Task

FOCAL = "focal"
CLASS_KEYS = {KEY: NONE, "training.loss": "cross_entropy", "training.label_smoothing": 0.0}
"""Keys that are about classes, and the value with which they do nothing."""


@dataclass(frozen=True)
class ClassLoss:
    """weights: of the classes (C,), on the device of the logits, None where each is 1; gamma: of the focal loss, None: cross-entropy;
    smoothing: the share e of a label that is spread over all classes, 0 with the focal loss."""

    weights: torch.Tensor | None = None
    gamma: float | None = None
    smoothing: float = 0.0

    def summed(self, logits: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """The sum over rows, each times its ``scale`` where there is one (see ``row_scale``).

        logits: (rows, C) in float32; labels: (rows,) class ids; scale: (rows,).
        """
        if scale is None and self.gamma is None:
            return F.cross_entropy(logits, labels, self.weights, reduction="sum", label_smoothing=self.smoothing)
        each = self.of_rows(logits, labels)
        return (each if scale is None else each * scale).sum()

    def of_rows(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Each row's loss (rows,)."""
        if self.gamma is None:
            return F.cross_entropy(logits, labels, self.weights, reduction="none", label_smoothing=self.smoothing)
        surprise = F.cross_entropy(logits, labels, reduction="none")
        wrong = -torch.expm1(-surprise)  # 1 - p_y
        # Of a row that is right to the last bit, the power's own slope would be infinite for gamma < 1.
        focused = wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** self.gamma * surprise
        return focused if self.weights is None else focused * self.weights[labels]


@dataclass(frozen=True)
class LabelLoss(ClassLoss):
    """The same of several labels a row, each by itself; weights: of the rows that have the label (C,), against those that have not."""

    def summed(self, logits: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """The sum over rows of the mean over labels. logits: (rows, C) in float32; labels: (rows, C) of 0 and 1; scale: (rows,)."""
        each = self.of_rows(logits, labels)
        return (each if scale is None else each * scale).sum()

    def of_rows(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Each row's loss (rows,)."""
        wanted = labels.float()
        if self.gamma is None:
            wanted = wanted * (1 - self.smoothing) + self.smoothing / 2 if self.smoothing else wanted
            each = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=self.weights, reduction="none")
            return each.mean(dim=-1)
        surprise = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        focused = (-torch.expm1(-surprise)).clamp(min=torch.finfo(surprise.dtype).tiny) ** self.gamma * surprise
        weighted = focused if self.weights is None else torch.where(labels.bool(), self.weights * focused, focused)
        return weighted.mean(dim=-1)


def make_loss(
    training: TrainingSection, weights: NDArray[np.float64] | None, device: torch.device, *, multi_label: bool = False
) -> ClassLoss:
    """The recipe's loss of classes, or of several labels a row; weights: of the classes (C,), None where each is 1."""
    return (LabelLoss if multi_label else ClassLoss)(
        None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=device),
        training.focal_gamma if training.loss == FOCAL else None,
        training.label_smoothing,
    )


def row_scale(weights: NDArray[np.float64], labels: torch.Tensor) -> float:
    """n by the sum of the weights of n rows: with it a mean over rows is one over weights. labels: class ids (n,)."""
    return len(labels) / float(weights[labels.numpy()].sum())


def scaled(batch: Batch, scale: float) -> Batch:
    """The batch, with ``scale`` for each of its rows."""
    return {**batch, ROW_SCALE: torch.full((len(batch["labels"]),), scale)}


def check_suits(training: TrainingSection, task: Task) -> None:
    """Refuse losses of classes where the label is a number, and weights of labels that the task does not have. Raises RecipeError."""
    if task.regression:
        given = {key: getattr(training, key.partition(".")[2]) or off for key, off in CLASS_KEYS.items()}
        what = "is for classes, and this task's label is a number"
        problems = [Problem(what, key=key, valid=str(off)) for key, off in CLASS_KEYS.items() if given[key] != off]
        if problems:
            raise RecipeError(problems)
    elif not isinstance(training.class_weights, str):
        places(tuple(training.class_weights), task.labels, KEY)
