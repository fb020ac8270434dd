"""Models with adapters, fresh or as if they had been trained, for the tests of what is written of them."""

from __future__ import annotations

import torch
from support.runs import Bench

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.workflow.setup import adapt, assemble


def fresh(bench: Bench, *overrides: str, **options: str) -> AdaptedModel:
    """An adapted model as its recipe makes it."""
    return adapt(assemble(bench.load(*overrides, **options)))


def trained(bench: Bench, *overrides: str, **options: str) -> AdaptedModel:
    """The same with random values in everything that trains."""
    adapted = fresh(bench, *overrides, **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in adapted.trained():
            tensor.parameter.add_(0.3 * torch.randn(tensor.parameter.shape, generator=generator))
    return adapted
