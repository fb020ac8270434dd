"""Tensors inside a checkpoint's JSON: what a hook remembers, bit for bit, and no pickle."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import torch


def pack(tensor: torch.Tensor) -> dict[str, Any]:
    """The tensor as plain values: dtype, shape, and its bytes compressed and written in base64."""
    flat = tensor.detach().cpu().reshape(-1).view(torch.uint8)
    data = base64.b64encode(zlib.compress(flat.numpy().tobytes(), level=1)).decode("ascii")
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": [*tensor.shape], "data": data}


def unpack(record: Mapping[str, Any]) -> torch.Tensor:
    """The tensor that ``pack`` was given, on the CPU."""
    data = bytearray(zlib.decompress(base64.b64decode(record["data"])))
    dtype: torch.dtype = getattr(torch, record["dtype"])
    flat = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return flat.view(dtype).reshape(record["shape"])


def pack_all(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """Every tensor of a dictionary."""
    return {name: pack(tensor) for name, tensor in tensors.items()}


def unpack_all(records: Mapping[str, Mapping[str, Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """What ``pack_all`` was given, on ``device``."""
    return {name: unpack(record).to(device) for name, record in records.items()}
