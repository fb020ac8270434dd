"""The baselines of a training, measured before it begins: they leave no trace in weights or random streams."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorakit.errors import RecipeError
from lorakit.searching.scoring import streams_kept
from lorakit.tasks.baselines import (
    FROZEN,
    FROZEN_ROWS,
    MAJORITY,
    TFIDF,
    Baseline,
    frozen,
    majority,
    most_rows,
    some_rows,
    tfidf,
)
from lorakit.tasks.batching import WINDOW_OF, Encoded
from lorakit.training.objective import MEAN, NO_INPUTS, pooled
from lorakit.workflow.accelerator import this_process
from lorakit.workflow.parts import Parts, encode_rows

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def measure_baselines(parts: Parts) -> list[Baseline]:
    """Those of ``evaluation.baselines``, on the training rows as trained on and the first validation split.

    None for a number to predict, and none in processes other than the first.
    """
    task, wanted = parts.task, parts.recipe.evaluation.baselines
    if task.regression or not wanted or not this_process().is_main_process:
        return []
    train, validation = parts.data.splits["train"], parts.data.splits[task.validation[0]]
    found = []
    with streams_kept():
        if MAJORITY in wanted:
            found.append(majority(task, np.asarray(train["label"]), np.asarray(validation["label"])))
        if TFIDF in wanted:
            found.append(tfidf(task, train, validation))
        if FROZEN in wanted:
            found.append(measure_frozen(parts))
    for baseline in found:
        if baseline.note:
            logger.info("baseline %s: %s", baseline.title, baseline.note)
    return found


def measure_frozen(parts: Parts) -> Baseline:
    """The model as it is loaded, before any adapter, with logistic regression on its features."""
    split = parts.task.validation[0]
    rows, note = some_rows(len(parts.data.splits["train"]), most_rows(parts.task, FROZEN_ROWS))
    logger.info("baseline: features of %d training rows by the frozen model", len(rows))
    chosen = parts.data.splits["train"].select(rows)
    train, labels = features_of(parts, chosen, "train")
    validation, references = features_of(parts, parts.data.splits[split], split)
    return frozen(parts.task, train, labels, validation, references, note)


def features_of(parts: Parts, rows: Dataset, name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features (n, width) and labels (n,) of rows."""
    encoded = encode_rows(rows, parts.backbone, parts.cut, name)
    return mean_features(parts, encoded), np.asarray(rows["label"])


@torch.no_grad()
def mean_features(parts: Parts, encoded: Encoded) -> NDArray[np.float32]:
    """The mean of each row's last hidden states over its tokens, (rows, width), on the training's device.

    Raises RecipeError (key ``evaluation.baselines``) for a model whose base does not read texts alone, or has no state for each token.
    """
    model, device = parts.backbone.model, this_process().device
    home = next(model.parameters()).device
    model.to(device)
    features: list[NDArray[np.float32]] = []
    order: list[int] = []
    for rows in encoded.batches(parts.recipe.evaluation.batch_size):
        batch = encoded.collate(rows)
        inputs = {name: tensor.to(device) for name, tensor in batch.items() if name not in NO_INPUTS}
        try:
            states = model.base_model(**inputs).last_hidden_state.float()
        except (TypeError, ValueError) as error:  # T5's wants its decoder's input, Perceiver's has other names
            raise no_features(model) from error
        if states.shape[:2] != inputs["attention_mask"].shape:  # Funnel pools
            raise no_features(model)
        mask = inputs["attention_mask"][:, -states.shape[1] :, None].float()
        found = (states * mask).sum(1) / mask.sum(1)
        features.append((pooled(found, batch[WINDOW_OF], MEAN) if WINDOW_OF in batch else found).cpu().numpy())
        order += rows
    model.to(home)
    return np.concatenate(features)[np.argsort(order)]


def no_features(model: Any) -> RecipeError:
    """Of a model that has none to give."""
    return RecipeError(
        f"a {model.config.model_type} model has no features of single tokens to compare with",
        key="evaluation.baselines",
        hint="evaluation.baselines without frozen",
    )
