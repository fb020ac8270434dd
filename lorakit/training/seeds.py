"""One seed, many streams: init, data, dropout and search each draw from their own, so none disturbs another."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, name: str) -> int:
    """The seed of the stream ``name``: 63 bits of a hash, so that neighbouring seeds and names share nothing."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, name: str) -> torch.Generator:
    """A fresh CPU generator of that stream."""
    return torch.Generator().manual_seed(derive_seed(seed, name))
