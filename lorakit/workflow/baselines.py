"""The baselines of a training, measured before it begins: they leave no trace in weights or random streams."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from lorakit.backbone.readout import MEAN
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
from lorakit.workflow.accelerator import this_process
from lorakit.workflow.frozen_features import labels_looked_at, read_features, rows_looked_at, training_features
from lorakit.workflow.parts import Parts, encode_rows

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
    places = np.searchsorted(rows_looked_at(parts)[0], rows)  # all of them are among those
    validation = parts.data.splits[split]
    encoded = encode_rows(validation, parts.backbone, parts.cut, split)
    train, held_out = training_features(parts, MEAN)[MEAN], read_features(parts, encoded, (MEAN,)).get(MEAN)
    if train is None or held_out is None:
        raise no_features(parts.backbone.model)
    references = np.asarray(validation["label"])
    labels, strength = labels_looked_at(parts)[places], parts.strengths.get(MEAN)
    return frozen(parts.task, train[places], labels, held_out, references, note, strength)


def no_features(model: Any) -> RecipeError:
    """Of a model that has none to give."""
    return RecipeError(
        f"a {model.config.model_type} model has no features of single tokens to compare with",
        key="evaluation.baselines",
        hint="evaluation.baselines without frozen",
    )
