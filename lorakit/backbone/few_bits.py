"""Weights in 1 to 8 bits by groups, whose scales and zero points are quantised too (double quantisation: Dettmers et al. 2023, section 3).

    W ~ scale Q + zero                    Q: 0 .. 2^k - 1, for every g inputs of a row
    scale = s S / 255,  zero = z Z / 127  S: 0 .. 255, Z: -127 .. 127, of each group;  s and z: the largest of 256 groups, in float32

Q is found for the scale and zero point as they are kept, so that their rounding is no further error but at a group's ends. A number takes
k + 16 / g + 64 / (256 g) bits where rows are whole groups, and a matrix whole blocks of 256 of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from lorakit.backbone.int4 import grouped
from lorakit.backbone.packing import pack, unpack

Tensor = torch.Tensor

BLOCK = 256
"""Groups that have an s and a z in common."""


class Precision(NamedTuple):
    """How a matrix is kept: bits a number, and inputs of a row that have a scale and a zero point in common, a multiple of 8."""

    bits: int
    group: int

    def bytes(self, outside: int, inside: int) -> int:
        """What a matrix (out x in) takes, scales and zero points counted."""
        groups = outside * -(-inside // self.group)
        return groups * (self.bits * self.group // 8 + 2) + 8 * -(-groups // BLOCK)


class Levels(NamedTuple):
    """What is kept of a matrix, Q not packed yet."""

    numbers: Tensor
    """Q (out x groups x g), uint8."""
    scale: Tensor
    """S (out x groups), uint8."""
    zero: Tensor
    """Z (out x groups), int8."""
    largest: Tensor
    """s and z (2 x blocks), float32."""


def round_to(weight: Tensor, precision: Precision) -> Levels:
    """The levels of ``weight`` (out x in); a last group that is not full is filled up with its last number."""
    groups = grouped(weight, precision.group)
    steps = (1 << precision.bits) - 1
    least, most = groups.aminmax(dim=-1)
    scale, largest_scale = in_blocks((most - least) / steps, 255)
    zero, largest_zero = in_blocks(least, 127)
    held = Levels(
        groups.new_empty(0), scale.to(torch.uint8), zero.to(torch.int8), torch.stack([largest_scale, largest_zero])
    )
    step, start = scales(held)
    safe = torch.where(step == 0, 1, step)
    numbers = ((groups - start[..., None]) / safe[..., None]).round_().clamp_(0, steps)
    return held._replace(numbers=numbers.to(torch.uint8))


def in_blocks(values: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Whole numbers up to ``steps`` for ``values`` (out x groups), and the largest magnitude of each block, which that stands for."""
    flat = values.flatten()
    filled = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).unflatten(0, (-1, BLOCK))
    largest = filled.abs().amax(dim=1)
    safe = torch.where(largest == 0, 1, largest)
    whole = (filled / safe[:, None] * steps).round_()
    return whole.flatten()[: len(flat)].view_as(values), largest


def scales(held: Levels) -> tuple[Tensor, Tensor]:
    """Scale and zero (out x groups) in float32."""
    each = held.largest.repeat_interleave(BLOCK, dim=1)[:, : held.scale.numel()]
    step, start = each.unflatten(1, held.scale.shape)
    return held.scale * (step / 255), held.zero * (start / 127)


def dense(held: Levels, inside: int) -> Tensor:
    """``scale Q + zero`` (out x ``inside``) in float32."""
    step, start = scales(held)
    return (held.numbers.float() * step[..., None]).add_(start[..., None]).flatten(1)[:, :inside]


def packed(held: Levels, bits: int) -> Tensor:
    """Q (out x groups x k x g / 8): its shape tells k and g."""
    return pack(held.numbers, bits).unflatten(-1, (bits, -1))


def precision_of(codes: Tensor) -> Precision:
    """How a matrix is kept whose Q are ``packed``."""
    return Precision(codes.shape[2], 8 * codes.shape[3])


def unpacked(codes: Tensor) -> Tensor:
    """Q (out x groups x g) of what ``packed`` gives."""
    return unpack(codes.flatten(-2), codes.shape[2])
