"""Tensors as plain values."""

from __future__ import annotations

import json

import pytest
import torch

from lorakit.adapters.json_tensors import pack, pack_all, unpack, unpack_all


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.tensor([float("nan"), -0.0, 1e-45]),
        torch.rand(5, 2) > 0.5,
        torch.tensor(7),
        torch.randn(2, 3).to(torch.bfloat16),
        torch.empty(0, 3),
        torch.Generator().manual_seed(3).get_state(),
        torch.randn(3, 4).T,
    ],
    ids=lambda tensor: f"{tensor.dtype} {[*tensor.shape]}",
)
def test_tensors_go_through_json_bit_for_bit(tensor: torch.Tensor) -> None:
    back = unpack(json.loads(json.dumps(pack(tensor))))
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    as_bytes = [t.contiguous().reshape(-1).view(torch.uint8) for t in (tensor, back)]
    assert torch.equal(*as_bytes)
    assert torch.equal(unpack_all(pack_all({"a": tensor.isnan()}), torch.device("cpu"))["a"], tensor.isnan())
