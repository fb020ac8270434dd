"""The quantities that proxies read, worked out a second time in a straight line: no probe, no adapter's forward, no hook.

A linear site's W becomes W + s B A in the never adapted model (``torch.func.functional_call``), with A and B as leaves.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from support.search.scene import Scene, logits, loss
from torch import nn
from torch.func import functional_call

Leaves = dict[str, dict[str, torch.Tensor]]
Change = Callable[[torch.Tensor], torch.Tensor]


def leaves(scene: Scene, change: Change = torch.clone) -> Leaves:
    """Site -> its A and B, changed, as leaves of a new graph."""
    return {
        site: {name: change(tensor.detach()).requires_grad_() for name, tensor, _ in adapter.tensors()}
        for site, adapter in scene.adapted.adapters.items()
    }


def weights(scene: Scene, model: nn.Module, factors: Leaves, scaled: Mapping[str, float] | None = None) -> Leaves:
    """Parameter name -> W + s B A of every linear site, times ``scaled`` with its bias: the site's whole output times that."""
    made = {}
    for site, adapter in scene.adapted.adapters.items():
        module = model.get_submodule(site)
        delta = scene.section.alpha / scene.section.rank * factors[site]["B"] @ factors[site]["A"]
        factor = (scaled or {}).get(site, 1.0)
        made[f"{site}.weight"] = factor * (module.weight + (delta.T if adapter.site.kind == "conv1d" else delta))
        if getattr(module, "bias", None) is not None:
            made[f"{site}.bias"] = factor * module.bias
    return made  # type: ignore[return-value]


class Called(nn.Module):
    """``model`` with some of its parameters replaced, to be called like it."""

    def __init__(self, model: nn.Module, replaced: Leaves):
        super().__init__()
        self.__dict__.update(plain=model, replaced=replaced)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return functional_call(self.plain, self.replaced, kwargs=inputs)


def gradients(scene: Scene) -> Leaves:
    """The leaves of all linear sites, their ``grad`` summed over the scene's batches."""
    found = leaves(scene)
    for batch in scene.batches():
        loss(Called(scene.pretrained, weights(scene, scene.pretrained, found)), batch).backward()
    return found


@torch.no_grad()
def make_absolute(model: nn.Module) -> nn.Module:
    """Absolute weights, and ones for the embedding of every token."""
    for parameter in model.parameters():
        parameter.abs_()
    model.get_input_embeddings().weight.fill_(1.0)  # type: ignore[operator]
    return model


def flow_gradients(scene: Scene) -> Leaves:
    """The same in the absolute model, over the first batch alone."""
    found, twin = leaves(scene, torch.abs), make_absolute(copy.deepcopy(scene.pretrained))
    loss(Called(twin, weights(scene, twin, found)), scene.batches(1)[0]).backward()
    return found


def gradients_of_a_copy(scene: Scene, *, flow: bool = False) -> Leaves:
    """With shortcuts: the adapters' tensors of a deep copy of the adapted model, after ``backward``."""
    twin = copy.deepcopy(scene.adapted)
    if flow:
        make_absolute(twin.model)
    for batch in scene.batches(1 if flow else 3):
        loss(twin.model, batch).backward()
    return {site: {name: t for name, t, _ in adapter.tensors()} for site, adapter in twin.adapters.items()}


def saliency(found: Leaves) -> dict[str, float]:
    """sum |p * dL/dp|."""
    return {site: sum((t.detach() * t.grad).abs().sum().item() for t in pair.values()) for site, pair in found.items()}


def accuracy(model: nn.Module, batches: list[dict[str, torch.Tensor]]) -> float:
    with torch.no_grad():
        right = [logits(model, batch).argmax(-1) == batch["labels"] for batch in batches]
    return torch.cat(right).double().mean().item()
