"""ComPEFT's code of a vector: few entries are kept, each as its sign alone, and one number is the size of all.

    t~ = alpha sd(t) sign(t) where |t| is among the largest n of d, else 0        t (d,): what training changed

Source: Yadav et al. 2023, ComPEFT, section 2. As in the authors' code the vector is the whole adapter's, and sd is that of all its entries,
the dropped ones too, with d - 1 below. Of equal sizes the first are kept here, so that there are n of them; theirs keeps all, and one more.

The places are in a Golomb code with a power of two (Rice): a gap g between kept places is g >> w in unary, then the lowest w bits of
g, with w from n / d as Sattler et al. 2019 (Robust and Communication-Efficient Federated Learning, algorithm 3) choose it. Unary parts,
lowest bits and signs lie in an array each, so that none is read bit by bit: at most n + (d - n) / 2^w, n w and n bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorakit.artifacts.records import number

ARRAYS = ("unary", "low", "signs")
MOST_BITS = 40  # of a gap: vectors of more than 10^12 entries there are none


@dataclass(frozen=True)
class Ternary:
    """length: d; places (n,): of the kept entries, rising; negative (n,): their signs; size: of each of them."""

    length: int
    places: NDArray[np.int64]
    negative: NDArray[np.bool_]
    size: float

    def vector(self) -> torch.Tensor:
        """t~ (d,), float32."""
        found = torch.zeros(self.length)
        found[torch.from_numpy(self.places)] = torch.from_numpy(np.where(self.negative, -self.size, self.size)).float()
        return found

    @property
    def record(self) -> dict[str, Any]:
        """What the arrays do not tell, ready for JSON."""
        kept = len(self.places)
        return {"length": self.length, "kept": kept, "low_bits": low_bits(kept, self.length), "size": self.size}


def ternary(vector: torch.Tensor, density: float, alpha: float) -> Ternary:
    """The code of ``vector`` (d,) with a share ``density`` of its entries, at least one, and none that is zero.

    Example:
        >>> code = ternary(torch.tensor([0.0, -3.0, 1.0, 2.0]), density=0.5, alpha=1.0)
        >>> code.places.tolist(), code.negative.tolist(), round(code.size, 4)
        ([1, 3], [True, False], 2.1602)
    """
    values = vector.detach().cpu().double().numpy()
    kept = min(max(1, int(density * len(values))), np.count_nonzero(values))
    places = np.sort(np.argsort(-np.abs(values), kind="stable")[:kept])
    return Ternary(len(values), places, values[places] < 0, alpha * float(np.std(values, ddof=min(1, len(values) - 1))))


def low_bits(kept: int, length: int) -> int:
    """w: how many bits of a gap are not in unary, where ``kept`` of ``length`` entries are."""
    if kept in (0, length):
        return 0
    golden = (math.sqrt(5) + 1) / 2
    return max(0, 1 + math.floor(math.log2(math.log(golden - 1) / math.log1p(-kept / length))))


def packed(code: Ternary) -> dict[str, torch.Tensor]:
    """The arrays of the code, of bytes."""
    width = low_bits(len(code.places), code.length)
    gaps = np.diff(code.places, prepend=-1) - 1
    ends = np.cumsum((gaps >> width) + 1) - 1
    unary = np.ones(ends[-1] + 1 if len(ends) else 0, np.uint8)
    unary[ends] = 0
    low = (gaps[:, None] >> np.arange(width)) & 1
    return {
        name: torch.from_numpy(np.packbits(bits))
        for name, bits in zip(ARRAYS, (unary, low, code.negative), strict=True)
    }


def unpacked(arrays: Mapping[str, torch.Tensor], record: Mapping[str, Any], length: int) -> Ternary:
    """What ``packed`` packed, for a vector of ``length`` entries. Raises KeyError, TypeError or ValueError for what is no such code."""
    if number(record["length"], "length", whole=True) != length:
        raise ValueError(f"it is of {record['length']} entries, and the adapter has {length}")
    kept = int(number(record["kept"], "kept", low=0, whole=True))
    width = int(number(record["low_bits"], "low_bits", low=0, whole=True))
    size = float(number(record["size"], "size", low=0))
    if any(arrays[name].dtype != torch.uint8 or arrays[name].dim() != 1 for name in ARRAYS):
        raise ValueError("a code is arrays of bytes")
    unary, low, signs = (np.unpackbits(arrays[name].numpy()) for name in ARRAYS)
    ends = np.flatnonzero(unary == 0)[:kept]
    used = ends[-1] + 1 if len(ends) else 0
    if (
        kept > length
        or width > MOST_BITS
        or len(ends) < kept
        or [len(unary), len(low), len(signs)] != [8 * -(-bits // 8) for bits in (used, kept * width, kept)]
    ):
        raise ValueError(f"its arrays are not those of {kept} entries")
    gaps = (np.diff(ends, prepend=-1) - 1) << width
    gaps += low[: kept * width].reshape(kept, width) @ (1 << np.arange(width))
    places = np.cumsum(gaps + 1) - 1
    if kept and places[-1] >= length:
        raise ValueError(f"it has an entry {places[-1]} of {length}")
    return Ternary(length, places, signs[:kept].astype(bool), size)
