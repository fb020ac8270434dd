"""Whole numbers of 1 to 8 bits, packed without a gap: eight numbers of k bits take k bytes.

A number of k bits is cut into parts of 1, 2, 4 or 8 bits, as k is written in binary: 3 bits are 1 and 2. A part of w bits has
8 / w numbers to a byte: of n numbers the first n w / 8 are lowest in their bytes, the next so many above them, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

Tensor = torch.Tensor


def parts(bits: int) -> Iterator[tuple[int, int]]:
    """(place of its lowest bit, bits) of each part of a number."""
    place = 0
    for wide in (1, 2, 4, 8):
        if bits & wide:
            yield place, wide
            place += wide


def pack(numbers: Tensor, bits: int) -> Tensor:
    """(..., n k / 8) uint8 for ``numbers`` (..., n) uint8 below 2^k, ``bits`` = k; each part's n w must be whole bytes.

    Example:
        >>> pack(torch.tensor([3, 0, 1, 2], dtype=torch.uint8), 2).tolist()     # 3 + 4 * 0 + 16 * 1 + 64 * 2
        [147]
    """
    packed = []
    for place, wide in parts(bits):
        rows = (numbers >> place & (1 << wide) - 1).unflatten(-1, (8 // wide, -1)).unbind(-2)
        held = rows[0]
        for row, each in enumerate(rows[1:], 1):
            held = held | each << wide * row
        packed.append(held)
    return torch.cat(packed, dim=-1)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The ``numbers`` (..., n) of what ``pack`` gives (..., n k / 8)."""
    pieces = packed.split([packed.shape[-1] * wide // bits for _, wide in parts(bits)], dim=-1)
    whole: Tensor | None = None
    for (place, wide), held in zip(parts(bits), pieces, strict=True):
        mask = (1 << wide) - 1
        rows = torch.cat([held >> wide * row & mask for row in range(8 // wide)], dim=-1) << place
        whole = rows if whole is None else whole | rows
    assert whole is not None
    return whole
