"""The parts of a backbone that train in full beside the adapters: the classification head and what is newly initialised."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lorakit.backbone.anatomy import Anatomy
from lorakit.backbone.readout import HEADS
from lorakit.errors import RunError


@dataclass(frozen=True)
class NewParts:
    """What of a loaded model is new."""

    names: list[str]
    """The parameters that train, in model order."""
    outside: list[str]
    """The parameters outside the base model: the head, and what some families put before it; the outputs where all are inside."""
    fresh: set[str]
    """The parameters, by all their names, that the checkpoint lacks or has in another shape."""
    reshaped: set[str]
    """Those of them that it has in another shape."""

    @property
    def pretrained_head(self) -> bool:
        """Whether the checkpoint brought the whole head, in the task's shape."""
        return bool(self.outside) and self.fresh.isdisjoint(self.outside)


def find_new_parts(model: Any, anatomy: Anatomy, info: dict[str, Any], name: str) -> NewParts:
    """Tell the new parts from the pretrained ones by transformers' loading ``info``.

    New are the parameters that the checkpoint lacks or has in another shape, and all that stand outside the base model: the
    head, and what some families put before it (DeBERTa's pooler, DistilBERT's pre_classifier). Raises RunError (key
    ``model.name``) when a layer or an embedding is among them: then the weights are not this model's.
    """
    reshaped = {key for key, *_ in info["mismatched_keys"]}
    fresh = set(info["missing_keys"]) | reshaped
    outside = outside_names(model)
    layers = tuple(f"{path}." for path, _ in anatomy.layers)
    embedding = id(embedding_weight(model))
    lost = [k for k, p in model.named_parameters() if k in fresh and (k.startswith(layers) or id(p) == embedding)]
    if lost:
        raise RunError(
            f"the checkpoint '{name}' lacks {len(lost)} of the backbone's weights, or has them in another shape: "
            f"{', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}",
            key="model.name",
            hint="its config.json and its weights do not belong together",
        )
    names = [key for key, _ in model.named_parameters() if key in fresh.union(outside)]
    return NewParts(names, outside, fresh, reshaped)


def outside_names(model: Any) -> list[str]:
    """The parameters outside the base model: the head, and what some families put before it; the outputs where all are inside."""
    base = model.base_model
    inner = {id(parameter) for parameter in base.parameters()} if base is not model else set()
    outside = [key for key, parameter in model.named_parameters() if inner and id(parameter) not in inner]
    if inner and not outside:  # Perceiver's base model has the head in it
        outside = output_names(model, [key for key, _ in model.named_parameters()])
    return outside


def output_names(model: Any, among: Sequence[str]) -> list[str]:
    """The parameters, of those named, that have a row for each output: those that grow where the model has one output more.

    Empty where that cannot be told: for a model that is not made of its configuration alone, or grows in other places too.
    """
    if own := [name for name in among if name.partition(".")[0] in HEADS]:
        return own
    config = copy.deepcopy(model.config)
    config.num_labels = model.config.num_labels + 1
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            larger = {name: parameter.shape for name, parameter in type(model)(config).named_parameters()}
        except Exception:  # whatever a family's own code does with a number of labels that it did not expect
            return []
    grown = []
    for name in among:
        here, there = model.get_parameter(name).shape, larger.get(name)
        if there is None:
            return []
        if there != here:
            if there[1:] != here[1:] or (here[0], there[0]) != (model.config.num_labels, config.num_labels):
                return []
            grown.append(name)
    return grown


def embedding_weight(model: Any) -> torch.Tensor | None:
    """The table of token embeddings, (vocabulary, width); None for a model that has no such table."""
    try:
        return model.get_input_embeddings().weight
    except (NotImplementedError, AttributeError):
        return None


def train_new_parts(model: nn.Module, names: list[str]) -> None:
    """Freeze the model except the named parameters, which become float32; their modules then cast what comes in."""
    model.requires_grad_(False)
    hooked: set[nn.Module] = set()
    for name in names:
        parameter = model.get_parameter(name)
        parameter.requires_grad_(True)
        owner = model.get_submodule(name.rpartition(".")[0])
        if parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
            if owner not in hooked:
                owner.register_forward_pre_hook(to_float32)
                hooked.add(owner)


def to_float32(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook that casts floating-point tensors to float32."""
    return tuple(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs)
