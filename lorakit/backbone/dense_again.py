"""Quantised weights made dense again, and integers that are found again in dense ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn

from lorakit.backbone.int4 import lies_on_steps, round_groups
from lorakit.backbone.quantised import Int4Linear, QuantisedLinear, quantised_modules

Tensor = torch.Tensor


@torch.no_grad()
def make_dense(model: nn.Module) -> None:
    """Make plain Linears of all quantised ones, in their own dtype: the numbers that were quantised, not those of before."""
    for module in list(quantised_modules(model)):
        make = empty(module)
        module.register_parameter("weight", nn.Parameter(make(), requires_grad=False))


def empty(module: QuantisedLinear) -> Callable[[], Tensor]:
    """Make a plain Linear of it whose weight takes no memory (``meta``), and return what makes the weight dense."""
    full = copy.copy(module)
    full._buffers = dict(module._buffers)
    for name in full._buffers:
        del module._buffers[name]
    shape = (module.out_features, module.in_features)
    module.__class__ = nn.Linear  # type: ignore[assignment]
    meta = torch.empty(shape, dtype=module.dtype, device="meta")
    module.register_parameter("weight", nn.Parameter(meta, requires_grad=False))
    return lambda: full.weight


def integers(model: nn.Module) -> dict[str, tuple[int, Tensor]]:
    """Module -> group and Q, of what is in int4."""
    return {name: (m.group, m.codes) for name, m in model.named_modules() if isinstance(m, Int4Linear)}


@torch.no_grad()
def found_again(dense: Mapping[str, Tensor], before: Mapping[str, tuple[int, Tensor]]) -> int | None:
    """The group in which rounding weights that were made dense (by name) gives the ``integers`` of before, and moves none of them; None
    where it gives others, or these weights lie between the steps, as after a small update that is no zero point's.
    """
    for name, (group, codes) in before.items():
        weight = dense[f"{name}.weight"].contiguous()
        if not (torch.equal(round_groups(weight, group)[0], codes) and lies_on_steps(weight, group)):
            return None
    return next((group for group, _ in before.values()), None)
