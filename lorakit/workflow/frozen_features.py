"""What the frozen model makes of rows before anything is adapted: the features of every read-out that is wanted, in one pass.

(One that encodes the texts of pairs apart takes a pass of its own.)

The ``frozen`` baseline, ``model.readout: auto`` and ``model.head_start: fitted`` look at the same training rows, at most FROZEN_ROWS,
and share what is computed of them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lorakit.backbone.head import output_names
from lorakit.backbone.pair_texts import PairFrame
from lorakit.backbone.readout import MEAN, OWN, READOUTS
from lorakit.backbone.trained_head import FITTED, START_KEY
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AUTO
from lorakit.searching.scoring import streams_kept
from lorakit.tasks.baselines import FROZEN, FROZEN_ROWS, some_rows
from lorakit.tasks.batching import WINDOW_OF, Batch, Encoded, label_tensor
from lorakit.training.objective import MEAN as OVER_WINDOWS
from lorakit.training.objective import NO_INPUTS, pooled
from lorakit.workflow.accelerator import make_accelerator, this_process
from lorakit.workflow.parts import Features, Parts, encode_rows

logger = logging.getLogger(__name__)


def rows_looked_at(parts: Parts) -> tuple[NDArray[np.int64], str]:
    """Which training rows (n,), and a word where that is not all."""
    return some_rows(len(parts.data.splits["train"]), FROZEN_ROWS)


def labels_looked_at(parts: Parts) -> NDArray[Any]:
    """Their labels: (n,), or (n, labels) of several labels a row."""
    rows, _ = rows_looked_at(parts)
    labels = label_tensor(parts.data.splits["train"].select(rows))
    if labels is None:
        raise ValueError("training rows have labels")
    return labels.numpy()


def training_features(parts: Parts, *names: str) -> dict[str, Features | None]:
    """Features (n, width) of the read-outs ``names`` for the rows looked at; None of one that the model does not have.

    What else this run will ask for is computed with them, and all of it once.
    """
    lacking = {*names, *asked_for(parts)} - parts.features.keys()
    if lacking:
        rows, note = rows_looked_at(parts)
        logger.info("features of %d training rows by the frozen model%s", len(rows), f" ({note})" * bool(note))
        chosen = parts.data.splits["train"].select(rows)
        found = read_features(parts, encode_rows(chosen, parts.backbone, parts.cut, "train"), lacking)
        parts.features |= {name: found.get(name) for name in lacking}
    return {name: parts.features[name] for name in names}


def starts_fitted(parts: Parts) -> bool:
    """Whether the head is a new one, and the recipe has it fitted."""
    return parts.recipe.model.head_start == FITTED and not parts.backbone.head.kept


def asked_for(parts: Parts) -> set[str]:
    """The read-outs whose features a training asks for once it is known which one the head has."""
    recipe = parts.recipe
    found = {recipe.model.readout} if starts_fitted(parts) else set()
    if FROZEN in recipe.evaluation.baselines and not parts.task.regression and this_process().is_main_process:
        found.add(MEAN)
    return found - {AUTO}


@torch.no_grad()
def read_features(parts: Parts, encoded: Encoded, names: Collection[str]) -> dict[str, Features]:
    """Features (rows, width) by read-out, on the training's device and in its precision, without dropout; those that there are.

    Of rows in windows they are the mean over these. Raises RecipeError (key ``model.head_start``) where OWN is among ``names``
    and the family's outputs are not one linear layer.
    """
    model, device, accelerator = parts.backbone.model, this_process().device, make_accelerator(parts.recipe)
    path = output_layer(parts)[0] if OWN in names else ""
    home = next(model.parameters()).device
    found: dict[str, list[Features]] = {}
    order: list[int] = []
    with streams_kept(), replaced(model, path):
        model.to(device)
        for rows in encoded.batches(parts.recipe.evaluation.batch_size):
            batch = encoded.collate(rows)
            with accelerator.autocast():
                read = features_of_batch(model, batch, device, names) | read_apart(parts, batch, device, names)
            for name, features in read.items():
                each = features.float()
                each = pooled(each, batch[WINDOW_OF], OVER_WINDOWS) if WINDOW_OF in batch else each
                found.setdefault(name, []).append(each.cpu().numpy())
            order += rows
        model.to(home)
    places = np.argsort(order)
    return {name: np.concatenate(each)[places] for name, each in found.items()}


def features_of_batch(
    model: Any, batch: Batch, device: torch.device, names: Collection[str]
) -> dict[str, torch.Tensor]:
    """What each read-out of whole rows reads, in one forward pass of a model whose output layer is taken out where OWN is wanted."""
    inputs = {name: tensor.to(device) for name, tensor in batch.items() if name not in NO_INPUTS}
    chosen = [READOUTS[name] for name in names if name != OWN and not READOUTS[name].apart]
    deep = {"output_hidden_states": True} if any(readout.depth > 1 for readout in chosen) else {}
    found: dict[str, torch.Tensor] = {}
    output: Any = None
    if OWN in names:
        with overheard(model.base_model, deep) as heard:
            found[OWN] = model(**inputs).logits
        output = heard[0] if heard else None
    if chosen and not hasattr(output, "last_hidden_state"):
        try:
            output = model.base_model(**inputs, **deep)
        except (TypeError, ValueError):  # T5's wants its decoder's input, Perceiver's has other names
            return found
    mask = inputs["attention_mask"]
    if not chosen or output.last_hidden_state.shape[:2] != mask.shape:  # Funnel pools
        return found
    return found | {readout.name: readout.of(output, mask) for readout in chosen}


def read_apart(parts: Parts, batch: Batch, device: torch.device, names: Collection[str]) -> dict[str, torch.Tensor]:
    """What each read-out of single texts reads of a batch of pairs, in another pass; nothing where none is wanted."""
    chosen = [READOUTS[name] for name in names if name != OWN and READOUTS[name].apart]
    if not chosen:
        return {}
    inputs = {name: tensor.to(device) for name, tensor in batch.items() if name not in NO_INPUTS}
    base, frame = parts.backbone.model.base_model, PairFrame.of(parts.backbone.tokenizer)
    return {readout.name: readout.features(base, frame=frame, **inputs) for readout in chosen}


@contextmanager
def overheard(base: nn.Module, options: Mapping[str, Any]) -> Iterator[list[Any]]:
    """What the base model gives while the whole model is called, with ``options`` among its arguments."""
    heard: list[Any] = []
    before = base.register_forward_pre_hook(lambda _, args, given: (args, {**given, **options}), with_kwargs=True)
    after = base.register_forward_hook(lambda _, args, output: heard.append(output))
    try:
        yield heard
    finally:
        before.remove()
        after.remove()


def output_layer(parts: Parts) -> tuple[str, nn.Linear]:
    """Where the layer is whose outputs are the logits, and the layer. RecipeError where it is not one linear layer."""
    model = parts.backbone.model
    owners = {name.rpartition(".")[0] for name in output_names(model, parts.backbone.new_parts)}
    path = owners.pop() if len(owners) == 1 else ""
    layer = model.get_submodule(path) if path else None
    if type(layer) is not nn.Linear:
        what = f"the outputs of '{parts.backbone.name}' are not one linear layer that could be fitted"
        raise RecipeError(what, key=START_KEY, valid="random", hint=f"{START_KEY}=random")
    return path, layer


@contextmanager
def replaced(model: nn.Module, path: str) -> Iterator[None]:
    """The model without dropout, with what goes into the output layer at ``path`` in the place of its logits, where there is a path."""
    layer, training = model.get_submodule(path), model.training
    if path:
        model.set_submodule(path, nn.Identity())
    model.eval()
    try:
        yield
    finally:
        if path:
            model.set_submodule(path, layer)
        model.train(training)
