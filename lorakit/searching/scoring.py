"""Scoring sites without leaving a trace: the model, its gradients, its modes and every random stream are as before."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.gradient_checkpointing import recompute_in_eval_mode
from lorakit.adapters.switching import ON
from lorakit.recipe.schema import SearchSection
from lorakit.registry import Registry
from lorakit.searching.cost_model import CostModel
from lorakit.tasks.batching import Batch

Loss = Callable[[nn.Module, Batch], torch.Tensor]
Logits = Callable[[nn.Module, Batch], torch.Tensor]
Gradients = Mapping[str, Mapping[str, torch.Tensor]]
"""Site -> tensor -> gradient of the loss, summed over batches; sites in model order, trained tensors only."""
OfGradients = Callable[[AdaptedModel, Gradients, SearchSection], dict[str, float]]


@dataclass(frozen=True)
class Proxy:
    """A zero-cost score per site.

    name: what recipes call it; summary: its formula in a line; source: paper and section; at_zero: what it does where B = 0;
    score: Probe -> site name -> score, larger is better; work: the multiply-adds of a tick; reach: how far down from the top the
    sites lie that it prefers, in layers for each layer's worth of sites that are on, as measured; None where it prefers none;
    of_gradients: the score from gradients alone, where that is all it looks at, so that those of ordinary training steps will do
    (`search.scoring: streaming`).
    """

    name: str
    summary: str
    source: str
    at_zero: str
    score: Callable[[Probe], dict[str, float]]
    work: Callable[[CostModel], float]
    reach: float | None = None
    of_gradients: OfGradients | None = None


proxies: Registry[Proxy] = Registry("proxy", "lorakit.searching.proxies")


@dataclass(frozen=True)
class Probe:
    """What a proxy may use: the model with every site on, batches of training rows, and the recipe's search section.

    loss: (model, batch) -> mean loss of the batch; logits: (model, batch) -> (rows, labels).
    """

    adapted: AdaptedModel
    batches: Sequence[Batch]
    loss: Loss
    logits: Logits
    regression: bool
    search: SearchSection

    def gradients(self, batches: Sequence[Batch] | None = None) -> Gradients:
        """The loss's gradients over the batches. A tensor that is frozen for good has a gradient of zero."""
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


TYPICAL_B = 0.02 * math.sqrt(2 / math.pi)
"""E|b| for b ~ N(0, 0.02^2), the deviation at which the authors' first runs scored an untrained B (it came from the model's own
initialiser), so that |b * dL/db| has an expected value where B is still zero."""


def saliency(adapter: Adapter, gradients: Mapping[str, torch.Tensor], untrained: str) -> float:
    """sum |p * dL/dp| over a site's tensors: the common part of SNIP and SynFlow.

    With ``untrained="expected"`` a B that is still zero counts with the magnitude of a small random one; with ``"literal"`` it counts
    as zero, and so does the whole site, for the gradient of A is zero too.
    """
    score = 0.0
    for name, parameter, role in adapter.trained_tensors():
        if role == "B" and untrained == "expected" and not parameter.any():
            score += TYPICAL_B * float(gradients[name].abs().sum())
        else:
            score += float((parameter.detach() * gradients[name]).abs().sum())
    return score


def from_gradients(score: OfGradients) -> Callable[[Probe], dict[str, float]]:
    """A proxy's ``score`` where it looks at gradients alone."""
    return lambda probe: score(probe.adapted, probe.gradients(), probe.search)


@contextmanager
def without_trace(adapted: AdaptedModel, *, train_mode: bool, seed: int, all_on: bool = True) -> Iterator[None]:
    """Every site on, dropout as asked, torch's randomness from ``seed``; afterwards everything is as it was, gradients included.

    With ``all_on=False`` every site is on or off as it was.
    """
    model = adapted.model
    states = adapted.states()
    modes = {module: module.training for module in model.modules()}
    pending = {parameter: parameter.grad for parameter in model.parameters() if parameter.grad is not None}
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [parameter.device for parameter in model.parameters() if parameter.is_cuda][:1]
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            for parameter in pending:
                parameter.grad = None
            if all_on:
                adapted.restore(dict.fromkeys(states, ON))
            model.train(train_mode)
            recompute_in_eval_mode(model)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        adapted.restore(states)
        for parameter, requires_grad in trained.items():
            parameter.requires_grad_(requires_grad)
        for parameter in model.parameters():
            parameter.grad = pending.get(parameter)
        for module, training in modes.items():
            module.training = training
