"""Groups of 4 bits, worked by hand: W ~ scale Q + zero (Xu et al. 2023, section 3.2)."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lorakit.backbone.int4 import dense_groups, lies_on_steps, round_groups
from lorakit.backbone.quantised import Quantisation

# Two groups of four: from -3 to 12 in steps of 1, and from 1 to 2.5 in steps of 0.1.
ROW = [[-3.0, 12.0, 0.4, 0.6, 1.0, 1.04, 1.06, 2.5]]


def test_a_row_by_hand():
    codes, scale, zero = round_groups(torch.tensor(ROW), 4)
    assert_close(scale, torch.tensor([[1.0, 0.1]]))
    assert_close(zero, torch.tensor([[-3.0, 1.0]]))
    # Q = 0 15 3 4 and 0 0 1 15: of each group the first half is low in the bytes, the second high
    assert codes.tolist() == [[[0 + 16 * 3, 15 + 16 * 4], [0 + 16 * 1, 0 + 16 * 15]]]
    dense = dense_groups(codes, scale, zero, 8)
    assert_close(dense, torch.tensor([[-3.0, 12.0, 0.0, 1.0, 1.0, 1.0, 1.1, 2.5]]))


@pytest.mark.parametrize(("inside", "group", "groups"), [(96, 32, 3), (80, 32, 3), (20, 32, 1), (7, 2, 4)])
def test_no_number_moves_by_more_than_half_a_step(inside, group, groups):
    torch.manual_seed(0)
    weight = torch.randn(5, inside)
    codes, scale, zero = round_groups(weight, group)
    assert codes.shape == (5, groups, group // 2)
    assert scale.shape == zero.shape == (5, groups)
    for start in range(0, inside, group):
        part = weight[:, start : start + group]
        assert_close(scale[:, start // group], (part.amax(dim=1) - part.amin(dim=1)) / 15)
        assert torch.equal(zero[:, start // group], part.amin(dim=1))
    steps = scale.repeat_interleave(group, dim=1)[:, :inside]
    assert ((dense_groups(codes, scale, zero, inside) - weight).abs() <= steps * 0.5001).all()


def test_a_constant_group_stays_what_it_is():
    weight = torch.full((2, 8), -0.7)
    assert torch.equal(dense_groups(*round_groups(weight, 4), 8), weight)


def test_what_was_made_dense_has_the_same_integers_again_also_where_zero_points_moved():
    torch.manual_seed(0)
    codes, scale, zero = round_groups(torch.randn(16, 96) * 0.02, 32)
    moved = zero + 0.05 * torch.randn(zero.shape)
    again = round_groups(dense_groups(codes, scale, moved, 96), 32)
    assert torch.equal(again[0], codes)
    assert torch.equal(again[2], moved)
    assert_close(again[1], scale, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_lies_between_the_steps_is_told_from_what_its_dtype_rounded(dtype: torch.dtype):
    """A tenth of a step: the same integer is found again, and the number would move back."""
    torch.manual_seed(0)
    codes, scale, zero = round_groups(torch.randn(16, 80), 32)
    dense = dense_groups(codes, scale, zero + 0.5 * torch.randn(zero.shape), 80).to(dtype)
    assert lies_on_steps(dense, 32)
    place = int((codes[0, 0] & 15).argsort()[8])  # neither the least nor the largest of its group
    dense[0, place] += 0.1 * scale[0, 0]
    assert torch.equal(round_groups(dense, 32)[0], codes)
    assert not lies_on_steps(dense, 32)


@pytest.mark.parametrize(("group", "bits"), [(32, 6), (64, 5), (128, 4.5)])
def test_bits_a_number(group, bits):
    linear = nn.Linear(256, 256, bias=False).requires_grad_(False)
    Quantisation("int4", group=group).quantise(linear)
    assert 8 * sum(buffer.nbytes for buffer in linear.buffers()) / 256**2 == bits
