"""One adapter on one small module."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.method import resolve
from lorakit.adapters.switching import ON
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection

INSIDE, OUTSIDE, RANK = 5, 7, 3


def build(
    kind: str = "linear", *, bias: bool = True, dtype: torch.dtype = torch.float64, **section: object
) -> tuple[nn.Module, Adapter]:
    """A module with an adapter that is on and whose tensors are all random."""
    torch.manual_seed(0)
    base = Conv1D(OUTSIDE, INSIDE) if kind == "conv1d" else nn.Linear(INSIDE, OUTSIDE, bias=bias)
    for parameter in base.requires_grad_(False).parameters():
        nn.init.normal_(parameter)
    site = Site("m", 0, "q", INSIDE, OUTSIDE, kind)  # type: ignore[arg-type]
    spec = resolve(AdapterSection(rank=RANK, alpha=5.0, **section))  # type: ignore[arg-type]
    base.to(dtype)
    adapter = Adapter(site, spec, RANK, base)
    base.add_module("adapter", adapter)
    if dtype == torch.float64:
        adapter.to(dtype)
    with torch.no_grad():
        for _, tensor, role in adapter.tensors():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if role == "magnitude" else torch.randn_like(tensor))
    adapter.switch(ON)
    return base, adapter


def weight_of(base: nn.Module) -> torch.Tensor:
    return base.weight.T if isinstance(base, Conv1D) else base.weight
