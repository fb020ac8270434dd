"""The head that a checkpoint brings: its outputs are put into the task's order by their names, or they start anew.

A head is the rows (labels x width) of its output layer's weight, and its bias; what a family puts before that layer knows no labels and
is kept in either case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import initialization

from lorakit.backbone.head import NewParts, output_names
from lorakit.errors import RecipeError
from lorakit.recipe.schema import ModelSection
from lorakit.tasks.label_order import order_by_name, told

KEEP, NEW = "keep", "new"
HEAD_KEY = "model.head"
FITTED = "fitted"
START_KEY = "model.head_start"


@dataclass(frozen=True)
class Outputs:
    """What a configuration says of a model's outputs: their names, none where they are numbers."""

    names: tuple[str, ...]
    number: int

    @classmethod
    def of(cls, config: Any) -> Outputs:
        """The outputs of a model with this configuration; none are known where it is not one of transformers'."""
        if not hasattr(config, "id2label"):
            return cls((), 0)
        named, number = dict(config.id2label), int(config.num_labels)
        if number == 1 or config.problem_type == "regression":
            return cls((), number)
        return cls(tuple(str(named.get(place, f"LABEL_{place}")) for place in range(number)), number)


@dataclass(frozen=True)
class TrainedHead:
    """What became of a checkpoint's head.

    kept: whether it is the model's now; order: which output of the checkpoint each of the model's is, empty where they stand as they
    did; note: a sentence about it, for people, empty where the checkpoint brought none; loud: whether it has to be heard; reshaped:
    whether the checkpoint's is for another number of labels.
    """

    kept: bool = False
    order: list[int] = field(default_factory=list)
    note: str = ""
    loud: bool = False
    reshaped: bool = False


def settle_head(model: Any, new: NewParts, had: Outputs, labels: tuple[str, ...], section: ModelSection) -> TrainedHead:
    """Keep a loaded model's trained head, put it in order or make it anew, as ``section.head`` and the label names have it.

    had: the checkpoint's outputs; labels: the task's, none for a number. Call it where the random state is the new head's own.
    Raises RecipeError (key ``model.head``) where a head is to be kept that is not there, or has another number of outputs.
    """
    fitted = section.head_start == FITTED
    wanted = (
        NEW if fitted and not labels and section.head is None else section.head
    )  # a number has no name to be told by
    and_not_fitted = ", and not fitted" if fitted else ""
    brought = [name for name in new.outside if name not in new.fresh]
    another = not new.reshaped.isdisjoint(new.outside)
    if wanted == KEEP and not new.pretrained_head:
        what = f"'{section.name}' brings no trained head"
        if another:
            what = (
                f"the head of '{section.name}' has outputs for {told_outputs(had)}, and the labels are {told(labels)}"
            )
        raise RecipeError(what, key=HEAD_KEY, valid=f"{NEW}, or leave it out for a new one")
    if another:  # and so its output layer is new already
        what = f"the checkpoint brings a head for {told_outputs(had)}: a new one takes its place"
        return TrainedHead(note=f"{what}; the labels are {told(labels)}", reshaped=True)
    if not brought or had.number != (len(labels) or 1):
        return TrainedHead()
    order, brings = order_by_name(had.names, labels), f"the checkpoint brings a trained head for {told(had.names)}"
    if order == [*range(len(labels))] and wanted != NEW:
        note = f"{brings}: it is kept and trained on{and_not_fitted}"
        return TrainedHead(True, note=note) if new.pretrained_head else TrainedHead()
    if order is None and wanted == KEEP:
        what = f"{section.name} calls its outputs {told(had.names)}"
        note = f"{what}: they are taken, in this order{and_not_fitted}, for {told(labels)}"
        return TrainedHead(True, note=note, loud=True)
    outputs = output_names(model, new.outside)
    if outputs and new.fresh.issuperset(outputs):  # brought is only what stands before them
        return TrainedHead()
    if wanted == NEW or order is None or not outputs or not new.pretrained_head:
        start_anew(model, outputs or brought)
        why = f"the labels are {told(labels)}, and model.head=keep would take it in its own order"
        if order is not None:
            why = "as model.head says" if wanted == NEW else f"its outputs cannot be put into the order {told(labels)}"
        return TrainedHead(note=f"{brings}: a new one takes its place; {why}")
    with torch.no_grad():
        for name in outputs:
            parameter = model.get_parameter(name)
            parameter.copy_(parameter[order])
    note = f"{brings}: it is kept and trained on{and_not_fitted}, its outputs in the order {told(labels)}"
    return TrainedHead(True, order, note)


def told_outputs(had: Outputs) -> str:
    """``3 labels (a, b, c)``, ``a number``."""
    return f"{had.number} labels ({told(had.names)})" if had.names else told(())


def output_bias(model: Any, among: Sequence[str]) -> nn.Parameter | None:
    """The bias (outputs,) of the output layer, of the parameters named; None where it has none, as decoders' heads."""
    found = [model.get_parameter(name) for name in output_names(model, among)]
    return next((parameter for parameter in found if parameter.ndim == 1), None)


@torch.no_grad()
def start_anew(model: Any, names: Sequence[str]) -> None:
    """Draw these parameters as the family's own initialisation does, and leave all others as they are."""
    owners: dict[nn.Module, list[str]] = {}
    for name in names:
        path, _, last = name.rpartition(".")
        owners.setdefault(model.get_submodule(path), []).append(last)
    with initialization.guard_torch_init_functions():
        for owner, own in owners.items():
            before = {name: parameter.clone() for name, parameter in owner.named_parameters() if name not in own}
            for name in own:
                owner.get_parameter(name)._is_hf_initialized = False  # type: ignore[attr-defined]
            model._init_weights(owner)
            for name, tensor in before.items():
                owner.get_parameter(name).copy_(tensor)
