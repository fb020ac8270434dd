"""Numbers in 4 bits by groups: a scale and a zero point for every so many inputs of a row (Xu et al. 2023, section 3.2).

    W ~ scale Q + zero        Q: 0 .. 15;  scale = (max - min) / 15 and zero = min, of each group

The zero point is a float32 in W's own units, not an integer: whatever is constant on groups can be added to it, and Q and scale stay.
Of what was made dense, in float32, the same Q is found again: the least and the largest number of a group are where they were.
"""

from __future__ import annotations

import torch

from lorakit.backbone.packing import pack, unpack

Tensor = torch.Tensor

BITS = 4
STEPS = (1 << BITS) - 1
ROUNDINGS = 8
"""How often float32 rounds the largest number of a group at most, on the way from ``scale Q + zero`` to the same again."""


def grouped(weight: Tensor, group: int) -> Tensor:
    """``weight`` (out x in) as (out x groups x group) in float32; a last group that is not full is filled up with its last number."""
    inside = weight.shape[1]
    filled = torch.arange(-(-inside // group) * group, device=weight.device).clamp_(max=inside - 1)
    return weight.float()[:, filled].unflatten(1, (-1, group))


def round_groups(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Q, two to a byte (out x groups x group / 2), with scale and zero (out x groups), of ``weight`` (out x in)."""
    groups = grouped(weight, group)
    zero, largest = groups.aminmax(dim=-1)
    scale = (largest - zero) / STEPS
    step = torch.where(scale == 0, 1, scale)
    levels = ((groups - zero[..., None]) / step[..., None]).round_().clamp_(0, STEPS).to(torch.uint8)
    return pack(levels, BITS), scale, zero


def dense_groups(codes: Tensor, scale: Tensor, zero: Tensor, inside: int) -> Tensor:
    """``scale Q + zero`` (out x ``inside``) in float32, of what ``round_groups`` gives."""
    levels = unpack(codes, BITS).float()
    return levels.mul_(scale[..., None]).add_(zero[..., None]).flatten(1)[:, :inside]


def lies_on_steps(weight: Tensor, group: int) -> bool:
    """Whether rounding ``weight`` (out x in) moves no number by more than its dtype had rounded it by already."""
    codes, scale, zero = round_groups(weight, group)
    share = ROUNDINGS * torch.finfo(torch.float32).eps + torch.finfo(weight.dtype).eps
    bound = share * torch.maximum(zero.abs(), (zero + STEPS * scale).abs())
    moved = dense_groups(codes, scale, zero, weight.shape[1]).sub_(weight).abs_()
    return bool((moved <= bound.repeat_interleave(group, dim=1)[:, : weight.shape[1]]).all())
