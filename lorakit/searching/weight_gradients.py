"""dL/dW of frozen weights, from a few batches: what a low-rank update could gain at each site, and in which directions; and its squares,
which say how much the loss minds a change of an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from lorakit.backbone.quantised import weight_leaves
from lorakit.backbone.site import Site
from lorakit.tasks.batching import Batch


def weight_gradients(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    summed: Callable[[nn.Module, Batch], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Site -> dL/dW (out x in) of the loss averaged over all rows, in float32; zeros for a weight that the loss does not depend on.

    sites: linear and conv1d ones; summed: (model, batch) -> the loss summed over the batch's rows. Leaves every parameter without
    gradients and switched off: call it where that is put back (``scoring.without_trace``).
    """
    with weight_leaves([model.get_submodule(site.name) for site in sites]) as weights:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        for batch in batches:
            found = torch.autograd.grad(summed(model, batch), weights, allow_unused=True)
            for total, gradient in zip(sums, found, strict=True):
                if gradient is not None:
                    total += gradient
    rows = sum(len(batch["labels"]) for batch in batches)
    return {
        site.name: (total.T if site.kind == "conv1d" else total) / rows for site, total in zip(sites, sums, strict=True)
    }


Terms = Callable[[nn.Module, Batch], Iterable[tuple[float, torch.Tensor]]]
"""(model, one row) -> (share, value) whose gradients, squared, make up the row's by their shares."""


def squared_gradients(
    model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch], terms: Terms
) -> dict[str, torch.Tensor]:
    """Site -> mean over rows of (dL/dW)^2 (out x in), each row's gradients by themselves: the diagonal of the Fisher information.

    As ``weight_gradients`` otherwise; which parameters want gradients is left as it is, but for these weights.
    """
    count = 0
    with weight_leaves([model.get_submodule(site.name) for site in sites]) as weights:
        totals = [torch.zeros_like(weight.requires_grad_(True), dtype=torch.float32) for weight in weights]
        for batch in batches:
            for row in range(len(batch["labels"])):
                one = {name: tensor[row : row + 1] for name, tensor in batch.items()}
                for share, value in terms(model, one):
                    gradients = torch.autograd.grad(value, weights, allow_unused=True, retain_graph=True)
                    for total, gradient in zip(totals, gradients, strict=True):
                        if gradient is not None:
                            total += share * gradient.float().square()
                count += 1
    return {
        site.name: (total.T if site.kind == "conv1d" else total) / count
        for site, total in zip(sites, totals, strict=True)
    }
