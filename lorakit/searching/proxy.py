"""What a proxy is: a score for every site from a few batches, without any training; and what it may look at.

A proxy is a ``Proxy`` record in a file of ``proxies/`` that registers itself. It is given a ``Probe``, within
``scoring.without_trace``: whatever it does to the model is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.options import Option, read_settings
from lorakit.registry import Registry
from lorakit.searching.cost_model import CostModel
from lorakit.tasks.batching import Batch

Loss = Callable[[nn.Module, Batch], torch.Tensor]
"""(model, batch) -> the mean loss of the batch's rows."""
Logits = Callable[[nn.Module, Batch], torch.Tensor]
"""(model, batch) -> rows x labels."""
Gradients = Mapping[str, Mapping[str, torch.Tensor]]
"""Site -> tensor -> gradient of the loss, summed over batches; sites in model order, trained tensors only."""
Settings = Mapping[str, Any]
"""Option -> its value, as its type: as the recipe gives it, else its default."""
Scores = dict[str, float]
"""Site -> its score; larger is better."""
OfGradients = Callable[[AdaptedModel, Gradients, Settings], Scores]


@dataclass(frozen=True)
class Proxy:
    """A score for every site, as a record of what it is and does.

    name: what recipes call it; summary: its formula in a line; source: paper and section; at_zero: what it does where B = 0;
    score: computes it; work: the multiply-adds of a tick; options: its own settings (``search.proxy_options``), whose values the
    probe has as ``settings``; reach: how far down from the top the sites lie that it prefers, in layers for each layer's worth of
    sites that are on, as measured; None where it prefers none; of_gradients: the score from gradients alone, where that is all it
    looks at, so that those of ordinary training steps will do (`search.scoring: streaming`); rewrites_weights: whether it gives the
    frozen weights other values meanwhile.
    """

    name: str
    summary: str
    source: str
    at_zero: str
    score: Callable[[Probe], Scores]
    work: Callable[[CostModel], float]
    options: Mapping[str, Option] = field(default_factory=dict)
    reach: float | None = None
    of_gradients: OfGradients | None = None
    rewrites_weights: bool = False

    def settings_from(self, given: Mapping[str, str]) -> dict[str, Any]:
        """The value of every option. Raises RecipeError with all names and values that it does not have."""
        return read_settings(f"proxy '{self.name}'", self.options, given, "search.proxy_options")


proxies: Registry[Proxy] = Registry("proxy", "lorakit.searching.proxies")


@dataclass(frozen=True)
class Probe:
    """What a proxy may use: the model with every site on, batches of training rows, and the values of the proxy's own options."""

    adapted: AdaptedModel
    batches: Sequence[Batch]
    loss: Loss
    logits: Logits
    regression: bool
    settings: Settings = field(default_factory=dict)

    def gradients(self, batches: Sequence[Batch] | None = None) -> Gradients:
        """The loss's gradients over the batches. A tensor that was settled for good has a gradient of zero."""
        names, tensors = [], []
        for site, adapter in self.adapted.adapters.items():
            for name, parameter, _ in adapter.trained_tensors():
                names.append((site, name))
                tensors.append(parameter)
        sums = [torch.zeros_like(tensor) for tensor in tensors]
        for batch in self.batches if batches is None else batches:
            loss = self.loss(self.adapted.model, batch)
            moving = [place for place, tensor in enumerate(tensors) if tensor.requires_grad]
            gradients = torch.autograd.grad(loss, [tensors[place] for place in moving], allow_unused=True)
            for place, gradient in zip(moving, gradients, strict=True):
                if gradient is not None:
                    sums[place] += gradient
        table: dict[str, dict[str, torch.Tensor]] = {}
        for (site, name), total in zip(names, sums, strict=True):
            table.setdefault(site, {})[name] = total
        return table


def from_gradients(score: OfGradients) -> Callable[[Probe], Scores]:
    """A proxy's ``score`` where it looks at gradients alone."""
    return lambda probe: score(probe.adapted, probe.gradients(), probe.settings)
