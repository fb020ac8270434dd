"""ComPEFT's code of what training changed: few entries are kept, each as its sign alone, and one number is the size of all.

    t~ = alpha sd(t) sign(t) where |t| is among the largest n of d, else 0        t (d,): a change

Source: Yadav et al. 2023, ComPEFT, section 2; as in the authors' code sd is that of all entries, the dropped ones too, with d - 1 below. Of
equal sizes the first are kept, so that there are n; a single entry is its own size. Several changes have an n and a size each.

The places, in all changes one after the other, are in a Golomb code with a power of two (Rice): a gap g between kept places is g >> w in
unary, then the lowest w bits of g, with w from the share that is kept as Sattler et al. 2019 (Robust and Communication-Efficient Federated
Learning, algorithm 3) choose it. Unary parts, lowest bits and signs lie in an array each, so that none is read bit by bit: of N entries
at most n + (N - n) / 2^w, n w and n bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorakit.artifacts.records import number

BITS, SIZES = ("unary", "low", "signs"), "sizes"
ARRAYS = (*BITS, SIZES)
MOST_BITS = 40  # of a gap: vectors of more than 10^12 entries there are none


@dataclass(frozen=True)
class Ternary:
    """lengths: of the changes; places (n,): of the kept entries in all of them, rising; negative (n,): their signs; sizes: one a change."""

    lengths: Sequence[int]
    places: NDArray[np.int64]
    negative: NDArray[np.bool_]
    sizes: NDArray[np.float32]

    def changes(self) -> torch.Tensor:
        """t~ of all, one after the other."""
        found = np.zeros(sum(self.lengths), np.float32)
        size = self.sizes[np.searchsorted(np.cumsum(self.lengths), self.places, side="right")]
        found[self.places] = np.where(self.negative, -size, size)
        return torch.from_numpy(found)

    @property
    def record(self) -> dict[str, Any]:
        """What the arrays do not tell, ready for JSON."""
        kept, length = len(self.places), sum(self.lengths)
        return {"length": length, "kept": kept, "low_bits": low_bits(kept, length)}


def ternary(changes: Sequence[torch.Tensor], density: float, alpha: float) -> Ternary:
    """The code of changes, of each a share ``density`` of its entries, at least one, and none that is zero.

    Example:
        >>> code = ternary([torch.tensor([0.0, -3.0, 1.0, 2.0])], density=0.5, alpha=1.0)
        >>> code.places.tolist(), code.negative.tolist(), code.sizes.round(4).tolist()
        ([1, 3], [True, False], [2.160200119018555])
    """
    places, negative, sizes, begin = [], [], [], 0
    for change in changes:
        values = change.detach().cpu().double().numpy()
        kept = min(max(1, int(density * len(values))), np.count_nonzero(values))
        largest = np.sort(np.argsort(-np.abs(values), kind="stable")[:kept])
        places.append(begin + largest)
        negative.append(values[largest] < 0)
        sizes.append(alpha * np.std(values, ddof=1) if len(values) > 1 else abs(values[0]))
        begin += len(values)
    lengths = [len(change) for change in changes]
    return Ternary(lengths, np.concatenate(places), np.concatenate(negative), np.array(sizes, np.float32))


def low_bits(kept: int, length: int) -> int:
    """w: how many bits of a gap are not in unary, where ``kept`` of ``length`` entries are."""
    if kept in (0, length):
        return 0
    golden = (math.sqrt(5) + 1) / 2
    return max(0, 1 + math.floor(math.log2(math.log(golden - 1) / math.log1p(-kept / length))))


def packed(code: Ternary) -> dict[str, torch.Tensor]:
    """The arrays of the code: bits in bytes, and the sizes."""
    width = low_bits(len(code.places), sum(code.lengths))
    gaps = np.diff(code.places, prepend=-1) - 1
    ends = np.cumsum((gaps >> width) + 1) - 1
    unary = np.ones(ends[-1] + 1 if len(ends) else 0, np.uint8)
    unary[ends] = 0
    low = (gaps[:, None] >> np.arange(width)) & 1
    arrays = [np.packbits(bits) for bits in (unary, low, code.negative)]
    return {name: torch.from_numpy(array) for name, array in zip(ARRAYS, (*arrays, code.sizes), strict=True)}


def unpacked(arrays: Mapping[str, torch.Tensor], record: Mapping[str, Any], lengths: Sequence[int]) -> Ternary:
    """What ``packed`` packed, for changes of these lengths. Raises KeyError, TypeError or ValueError for what is no such code."""
    if (told := number(record["length"], "length", whole=True)) != (length := sum(lengths)):
        raise ValueError(f"it is of {told} entries, and the adapter has {length}")
    kept = int(number(record["kept"], "kept", low=0, whole=True))
    width = int(number(record["low_bits"], "low_bits", low=0, whole=True))
    if any(arrays[name].dtype != torch.uint8 or arrays[name].dim() != 1 for name in BITS):
        raise ValueError("a code is arrays of bytes")
    sizes = arrays[SIZES]
    if sizes.dtype != torch.float32 or [*sizes.shape] != [len(lengths)] or not bool((sizes >= 0).all()):
        raise ValueError(f"its arrays are not those of {len(lengths)} changes")
    unary, low, signs = (np.unpackbits(arrays[name].numpy()) for name in BITS)
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
    return Ternary(lengths, places, signs[:kept].astype(bool), sizes.numpy())
