"""ComPEFT's code: its values by the paper's formula, and what it takes on the disk by the code's own arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lorakit.artifacts.ternary import BITS, low_bits, packed, ternary, unpacked


def drawn(length: int) -> torch.Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length))


def test_values_are_those_of_the_formula():
    vector = torch.tensor([0.1, -4.0, 0.0, 2.0, -1.0, 3.0, -0.2, 0.5])
    size = 1.5 * math.sqrt(sum((x - 0.05) ** 2 for x in vector.tolist()) / 7)
    expected = torch.tensor([0, -size, 0, size, 0, size, 0, 0])
    assert torch.allclose(ternary([vector], 0.4, 1.5).changes(), expected, rtol=1e-6, atol=0)


def test_zeros_are_never_kept_and_of_equal_entries_the_first_are():
    code = ternary([torch.tensor([0.0, 1.0, -1.0, 1.0, 0.0])], 1.0, 1.0)
    assert (code.places.tolist(), code.negative.tolist()) == ([1, 2, 3], [False, True, False])
    assert ternary([torch.tensor([1.0, -1.0, 1.0])], 0.7, 1.0).places.tolist() == [0, 1]
    assert ternary([drawn(10)], 0.01, 1.0).places.tolist() == [int(drawn(10).abs().argmax())]


def test_every_change_has_a_size_and_a_share_of_its_own():
    parts = [drawn(30), 100 * drawn(50), torch.tensor([-0.7]), torch.zeros(5), drawn(7)]
    code = ternary(parts, 0.2, 1.5)
    back = unpacked(packed(code), code.record, [30, 50, 1, 5, 7]).changes().split([30, 50, 1, 5, 7])
    for part, found, kept in zip(parts, back, (6, 10, 1, 0, 1), strict=True):
        alone = ternary([part], 0.2, 1.5).changes()
        assert torch.equal(found, alone)
        assert int(found.count_nonzero()) == kept
    assert torch.equal(back[2], parts[2])  # one entry has no deviation, and is its own size


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 1000, 4321])
@pytest.mark.parametrize("density", [0.003, 0.05, 0.2, 0.5, 1.0])
def test_what_is_packed_comes_back_and_is_as_small_as_the_code_says(length, density):
    code = ternary([drawn(length)], density, 2.0)
    arrays = packed(code)
    back = unpacked(arrays, code.record, [length])
    assert torch.equal(back.changes(), code.changes())
    assert np.array_equal(back.places, code.places)
    kept, width = max(1, int(density * length)), low_bits(len(code.places), length)
    assert arrays["unary"].numel() <= math.ceil((kept + (length - kept) / 2**width) / 8)
    assert [arrays[name].numel() for name in ("low", "signs")] == [math.ceil(kept * width / 8), math.ceil(kept / 8)]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_the_bits_of_a_gap_are_as_few_as_can_be(share):
    """A gap g comes with probability p (1 - p)^g, and its unary part has floor(g / 2^w) + 1 bits."""

    def expected(width: int) -> float:
        return width + 1 / (1 - (1 - share) ** 2**width)

    assert low_bits(int(1000 * share), 1000) == min(range(12), key=expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"length": 99}, "it is of 99 entries, and the adapter has 100"),
        ({"kept": 19}, "not those of 19 entries"),
        ({"kept": 200}, "not those of 200 entries"),
        ({"low_bits": 5}, "not those of 20 entries"),
        ({"low_bits": 41}, "not those of 20 entries"),
    ],
)
def test_another_record_is_refused(change, told):
    code = ternary([drawn(60), drawn(40)], 0.2, 1.0)
    with pytest.raises(ValueError, match=told):
        unpacked(packed(code), code.record | change, [60, 40])


def test_other_sizes_are_refused():
    code = ternary([drawn(60), drawn(40)], 0.2, 1.0)
    for wrong in (torch.ones(3), -torch.ones(2), torch.ones(2).double()):
        with pytest.raises(ValueError, match="not those of 2 changes"):
            unpacked(packed(code) | {"sizes": wrong}, code.record, [60, 40])


@pytest.mark.parametrize("name", BITS)
def test_damaged_arrays_are_refused(name):
    code = ternary([drawn(60), drawn(40)], 0.2, 1.0)
    arrays = packed(code)
    for wrong in (arrays[name][:-1], torch.cat([arrays[name], arrays[name]]), arrays[name].float()):
        with pytest.raises(ValueError, match=r"arrays"):
            unpacked(arrays | {name: wrong}, code.record, [60, 40])
    far = packed(code)["unary"].clone()
    far[0] = 255
    with pytest.raises(ValueError, match=r"entries|entry"):
        unpacked(arrays | {"unary": far}, code.record, [60, 40])
