"""Numbers of k bits without a gap."""

from __future__ import annotations

import pytest
import torch

from lorakit.backbone.packing import pack, unpack


@pytest.mark.parametrize("bits", range(1, 9))
def test_what_is_unpacked_is_what_was_packed_in_as_many_bytes_as_bits_say(bits: int):
    numbers = torch.randint(0, 1 << bits, (3, 5, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits))
    numbers[0, 0, :2] = torch.tensor([0, (1 << bits) - 1])
    packed = pack(numbers, bits)
    assert packed.shape == (3, 5, 64 * bits // 8)
    assert torch.equal(unpack(packed, bits), numbers)


def test_three_bits_by_hand():
    """Eight numbers: their lowest bits in one byte, the upper two of each in two more, first those of the first half."""
    numbers = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7], dtype=torch.uint8)
    lowest = sum((number & 1) << place for place, number in enumerate(range(8)))
    upper = [
        sum((number >> 1) << 2 * place for place, number in enumerate(half)) for half in ((0, 2, 4, 6), (1, 3, 5, 7))
    ]
    assert pack(numbers, 3).tolist() == [lowest, *upper]
