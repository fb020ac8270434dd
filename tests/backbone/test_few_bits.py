"""Weights in k bits by groups, by the formula in numpy; and how many bytes they take."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from lorakit.backbone.few_bits import Precision, dense, packed, precision_of, round_to, unpacked
from lorakit.backbone.quantised import MixedLinear, Quantisation


def a_weight(outside: int, inside: int) -> torch.Tensor:
    return torch.randn(outside, inside, generator=torch.Generator().manual_seed(0)) * 0.05


def by_the_formula(weight: np.ndarray, bits: int, group: int) -> np.ndarray:
    """Q between the least and the largest of each group, scale and zero in 255 and 127 steps to the largest of 256 groups."""
    rows, inside = weight.shape
    count = math.ceil(inside / group)
    whole = np.concatenate([weight, np.repeat(weight[:, -1:], count * group - inside, axis=1)], axis=1)
    groups = whole.reshape(rows * count, group)
    scale, zero = (groups.max(axis=1) - groups.min(axis=1)) / (2**bits - 1), groups.min(axis=1)
    for start in range(0, rows * count, 256):
        block = slice(start, start + 256)
        for values, steps in ((scale, 255), (zero, 127)):
            largest = np.abs(values[block]).max()
            values[block] = np.round(values[block] / largest * steps) / steps * largest
    places = np.clip(np.round((groups - zero[:, None]) / scale[:, None]), 0, 2**bits - 1)
    return (places * scale[:, None] + zero[:, None]).reshape(rows, -1)[:, :inside]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("outside", "inside", "group"), [(300, 64, 32), (6, 80, 32), (5, 20, 64)])
def test_weights_are_rounded_as_the_formula_says(bits: int, outside: int, inside: int, group: int):
    weight = a_weight(outside, inside)
    found = dense(round_to(weight, Precision(bits, group)), inside).double().numpy()
    expected = by_the_formula(weight.double().numpy(), bits, group)
    step = (weight.max() - weight.min()).item() / (2**bits - 1)
    differ = np.abs(found - expected) > 1e-3 * step
    assert differ.mean() < 1e-3  # float32 and float64 may fall on either side of a half
    assert np.abs(found - expected).max() < 1.01 * step


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [32, 128])
def test_what_is_kept_has_the_bytes_that_are_announced_and_the_same_numbers(bits: int, group: int):
    precision, weight = Precision(bits, group), a_weight(40, 96)
    held = round_to(weight, precision)
    codes = packed(held, bits)
    assert (precision_of(codes), torch.equal(unpacked(codes), held.numbers)) == (precision, True)
    linear = nn.Linear(96, 40, bias=False).requires_grad_(False)
    Quantisation("mixed", precisions={"m": precision}).at("m").quantise(linear, weight)
    assert isinstance(linear, MixedLinear)
    assert sum(buffer.nbytes for buffer in linear.buffers()) == precision.bytes(40, 96)
    assert torch.equal(linear.weight, dense(held, 96))


def test_bits_a_number_are_those_of_the_formula():
    assert 8 * Precision(3, 64).bytes(256, 1024) / (256 * 1024) == 3 + 16 / 64 + 64 / (256 * 64)


def test_the_error_falls_with_bits_and_with_smaller_groups():
    weight = a_weight(64, 256)
    errors = [
        [float((weight - dense(round_to(weight, Precision(bits, group)), 256)).norm()) for group in (128, 64, 32)]
        for bits in (2, 3, 4, 8)
    ]
    flat = [error for row in errors for error in row]
    assert flat == sorted(flat, reverse=True)
    assert len(set(flat)) == len(flat)


def test_constant_groups_and_zeros_stay_what_they_are():
    weight = torch.zeros(2, 64)
    weight[0, :32] = -0.7
    assert torch.equal(dense(round_to(weight, Precision(2, 32)), 64), weight)
