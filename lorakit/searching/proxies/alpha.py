"""Alpha test: how far a site can be scaled down before accuracy drops (HeteroLoRA, its ALPHA-TEST proxy).

    M0 = accuracy with every site on;  s = the smallest k in 0..10 such that the accuracy with the site scaled by k/10 stays
    at or above (1 - tolerance) M0, found by bisection, one site at a time from the last to the first

Where the accuracy does not rise steadily with k, bisection ends at some k that is good enough while k - 1 is not.
A linear site's whole output W x + b + s B A x is scaled, as in the authors' code; a shortcut's low-rank path alone. Accuracy is that of
training rows (the authors mix validation rows in; lorakit never does). For regression, the mean squared error may grow by the
tolerance instead. The tolerance is set in `search.proxy_options`. Many sites tie at 0: ties are drawn from the search's own stream.
Cost: about four forward passes over the batches for every site: by far the dearest proxy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.options import Option
from lorakit.searching.proxy import Probe, Proxy, Scores, proxies

STEPS = 10


@contextmanager
def scaled(adapter: Adapter, factor: float) -> Iterator[None]:
    """The site's output (a shortcut's: its low-rank path) multiplied by ``factor``."""

    def scale(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output * factor

    handle = (adapter if adapter.base is None else adapter.base).register_forward_hook(scale)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def quality(probe: Probe) -> float:
    """Accuracy over the batches, of several labels a row over all of them; minus the mean squared error for regression."""
    right, rows = 0.0, 0
    for batch in probe.batches:
        logits = probe.logits(probe.adapted.model, batch)
        labels = batch["labels"].to(logits.device)
        if probe.regression:
            right -= float((logits.squeeze(-1) - labels).square().sum())
        elif labels.ndim == 2:
            right += float(((logits >= 0) == labels.bool()).float().mean(dim=-1).sum())
        else:
            right += float((logits.argmax(-1) == labels).sum())
        rows += len(labels)
    return right / rows


def alpha(probe: Probe) -> Scores:
    """Site -> the smallest k in 0..10 at which the model is still as good."""
    full = quality(probe)
    enough = full - probe.settings["tolerance"] * abs(full)
    scores: Scores = {}
    for site, adapter in reversed(probe.adapted.adapters.items()):
        low, high = 0, STEPS
        while low < high:
            middle = (low + high) // 2
            with scaled(adapter, middle / STEPS):
                good = quality(probe) >= enough
            low, high = (low, middle) if good else (middle + 1, high)
        scores[site] = float(low)
    return {site: scores[site] for site in probe.adapted.adapters}


proxies.register(
    Proxy(
        name="alpha",
        summary="smallest k/10 to which the site can be scaled with its accuracy kept",
        source="HeteroLoRA (Zhang et al. 2024)",
        at_zero="works on linear sites, whose whole output is scaled; an untrained shortcut scores 0",
        score=alpha,
        work=lambda cost_model: cost_model.forward() * (1 + len(cost_model.sites) * math.log2(STEPS + 1)),
        options={"tolerance": Option(0.01, "share of the accuracy that may be lost", low=0.0, below=1.0)},
    ),
)
