"""What updates that prune or freeze factors have in common: which tensors, how much is left when, and what is kept."""

from __future__ import annotations

import math

import torch

from lorakit.adapters.adapted_model import AdaptedModel, TrainedTensor
from lorakit.adapters.init import inits
from lorakit.errors import RecipeError

FACTORS = ("A", "B")


def factors(adapted: AdaptedModel, update: str) -> list[TrainedTensor]:
    """The trained factors A and B of all sites. Raises RecipeError where there are none."""
    found = [tensor for tensor in adapted.trained() if tensor.role in FACTORS and tensor.site is not None]
    if not found:
        raise RecipeError(
            f"update '{update}' works on trained factors A and B, and this adapter has none",
            key="adapter.updates",
            hint="a method such as lora",
        )
    return found


def prunable(adapted: AdaptedModel, update: str) -> list[TrainedTensor]:
    """The factors whose entries may be put to zero. Raises RecipeError where zero is not where the update is nothing."""
    found = factors(adapted, update)
    for tensor in found:
        spec = adapted.adapters[tensor.site or ""].spec
        if inits.get(spec.init).anchors:
            raise RecipeError(
                f"update '{update}' puts entries to zero, but init '{spec.init}' starts from factors that are no update yet",
                key="adapter.init",
                valid="an init that starts the update at zero, such as kaiming",
            )
    return found


def part(share: float, total: int) -> int:
    """``share`` of ``total`` entries, rounded to the nearest, halves up, and at least one."""
    return max(math.floor(share * total + 0.5), 1)


def largest(scores: torch.Tensor, number: int) -> torch.Tensor:
    """A mask (bool) of the ``number`` largest scores along the last axis; of equal scores the first."""
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :number]
    return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device).scatter_(-1, order, value=True)
