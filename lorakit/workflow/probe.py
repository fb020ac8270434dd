"""``model.head: probe``: the new head starts as logistic regression on what the frozen model makes of the training rows.

Fine-tuning from a head that is drawn at random first bends the features towards that head; from one that already reads them well it
keeps what is good in them (Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features, section 4: linear probing, then
fine-tuning).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lorakit.backbone.head import output_names
from lorakit.backbone.trained_head import HEAD_KEY, PROBE
from lorakit.errors import RecipeError
from lorakit.searching.scoring import streams_kept
from lorakit.tasks.baselines import FROZEN_ROWS, some_rows
from lorakit.tasks.batching import Encoded
from lorakit.tasks.linear_probe import fit_outputs
from lorakit.training.objective import Objective
from lorakit.workflow.accelerator import make_accelerator
from lorakit.workflow.objective import objective_of
from lorakit.workflow.parts import Parts

logger = logging.getLogger(__name__)


def probe_head(parts: Parts, encoded: Encoded) -> None:
    """Start the head at what fits the training rows best, at most FROZEN_ROWS of them, where the recipe asks for that.

    RecipeError (key ``model.head``) where the model's outputs are not one linear layer.
    """
    if parts.recipe.model.head != PROBE:
        return
    model = parts.backbone.model
    path, layer = output_layer(parts)
    rows, note = some_rows(len(encoded), FROZEN_ROWS)
    logger.info(
        "head: logistic regression on the frozen features of %d training rows%s", len(rows), f" ({note})" * bool(note)
    )
    home = next(model.parameters()).device
    with streams_kept(), replaced(model, path):
        objective = objective_of(parts, make_accelerator(parts.recipe))
        objective.accelerator.prepare_model(model)
        features = features_of(model, encoded, rows, objective, parts.recipe.evaluation.batch_size)
        model.to(home)
    if encoded.labels is None:
        raise ValueError("a probe needs labels")
    weight, bias = fit_outputs(features, encoded.labels.numpy()[rows], parts.task)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(bias))


def output_layer(parts: Parts) -> tuple[str, nn.Linear]:
    """Where the layer is whose outputs are the logits, and the layer."""
    model = parts.backbone.model
    owners = {name.rpartition(".")[0] for name in output_names(model, parts.backbone.new_parts)}
    path = owners.pop() if len(owners) == 1 else ""
    layer = model.get_submodule(path) if path else None
    if type(layer) is not nn.Linear:
        what = f"the outputs of '{parts.backbone.name}' are not one linear layer that could be fitted"
        raise RecipeError(what, key=HEAD_KEY, valid="new, or leave it out", hint=f"{HEAD_KEY}=new")
    return path, layer


@contextmanager
def replaced(model: nn.Module, path: str) -> Iterator[None]:
    """The model with what goes into its output layer in the place of its logits, without dropout."""
    layer, training = model.get_submodule(path), model.training
    model.set_submodule(path, nn.Identity())
    model.eval()
    try:
        yield
    finally:
        model.set_submodule(path, layer)
        model.train(training)


@torch.no_grad()
def features_of(
    model: nn.Module, encoded: Encoded, rows: NDArray[np.int64], objective: Objective, batch_size: int
) -> NDArray[np.float32]:
    """What goes into the output layer for these rows, (rows, width)."""
    order = rows[np.argsort(-encoded.lengths[rows], kind="stable")]
    found = []
    for start in range(0, len(order), batch_size):
        batch = encoded.collate(order[start : start + batch_size].tolist())
        found.append(objective.logits(model, batch).cpu().numpy())
    places = np.argsort(np.argsort(-encoded.lengths[rows], kind="stable"), kind="stable")
    features: NDArray[np.float32] = np.concatenate(found)[places]
    return features
