"""Rank units: the parts that an update is a sum of, and how single ones are taken out of it.

In LoRA unit i is row i of A and column i of B, and an update of rank r is the sum of r of them:

    dW = B A = B[:, 0] A[0] + B[:, 1] A[1] + ... + B[:, r-1] A[r-1]

Every delta says along which axes of its tensors the units lie (``rank_axes``); nothing here knows LoRA. A unit that is
in the function is *live*. There are two ways to take some out:

    keep(mask)    any of them: the others are *closed*, zeros stand in their place in those tensors where that is
                  enough (LoRA: in B)
    cut(count)    all but the first ``count``: the function computes with these alone (``Delta.tensor``), no value changes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from lorakit.adapters.anchored import Anchored
    from lorakit.adapters.delta import Delta

Tensor = torch.Tensor


class RankUnits:
    """The rank units of one adapter, ``adapter.units``."""

    def __init__(self, delta: Delta | Anchored, rank: int):
        self.delta = delta
        self.rank = rank
        self.mask = torch.ones(rank, dtype=torch.bool)
        """(rank,) Which of them are live."""

    @property
    def live(self) -> int:
        """How many are live."""
        return int(self.mask.sum())

    @property
    def divisible(self) -> bool:
        """Whether units can be taken out of the update one by one."""
        return bool(self.delta.closers())

    @property
    def is_cut(self) -> bool:
        """Whether those that are not live are cut off, with their values still there."""
        return self.delta.cut_to is not None

    def cut(self, count: int | None) -> None:
        """The first ``count`` are live, None for all: the function computes with these alone, the others keep their values."""
        self.delta.cut_to = None if count is None or count >= self.rank else count
        self.mask = torch.arange(self.rank) < (self.rank if count is None else count)

    def keep(self, mask: Tensor) -> None:
        """Exactly those where ``mask`` (rank,) is true are live. The others are closed, and can be opened again by training them."""
        self.delta.cut_to = None
        self.mask = mask.clone().cpu()
        if not self.mask.all():
            self.delta.close(~self.mask)

    def record(self) -> dict[str, Any] | None:
        """Which are live, and whether the rest is cut off, ready for JSON; None where all are live."""
        return None if self.mask.all() else {"live": self.mask.nonzero().flatten().tolist(), "cut": self.is_cut}

    def restore(self, record: Mapping[str, Any] | None) -> None:
        """Be as ``record()`` was."""
        if record is None:
            self.cut(None)
        elif record["cut"]:
            self.cut(len(record["live"]))
        else:
            self.keep(torch.tensor([unit in record["live"] for unit in range(self.rank)]))

    # -- what of a tensor belongs to them ------------------------------------------------------------------------------

    def size(self, name: str, tensor: Tensor, live: int) -> int:
        """Numbers in the tensor ``name`` that belong to ``live`` units, or to none in particular."""
        axes = len(axes_of(self.delta, name)) if self.divisible else 0
        return int(tensor.numel() * live**axes // self.rank**axes) if axes else tensor.numel()

    def live_part(self, name: str, whole: Tensor) -> Tensor:
        """Of the tensor ``name`` the live units alone: what is worth saving."""
        if self.divisible and not self.mask.all():
            for axis in axes_of(self.delta, name):
                whole = whole.index_select(axis, self.mask.nonzero().flatten().to(whole.device))
        return whole

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The tensor ``name`` from its ``live_part``, zeros in the place of the other units."""
        if not self.divisible or self.mask.all():
            return part
        shape = [self.rank if axis in axes_of(self.delta, name) else size for axis, size in enumerate(part.shape)]
        return self.inserted(name, part, self.mask.nonzero().flatten().tolist(), part.new_zeros(shape))

    def inserted(self, name: str, part: Tensor, units: Sequence[int], whole: Tensor) -> Tensor:
        """A copy of ``whole``, which is like the tensor ``name``, with ``part`` in the place of the units with these numbers."""
        axes = axes_of(self.delta, name)
        places = [
            torch.tensor([*(units if axis in axes else range(size))], dtype=torch.long)
            for axis, size in enumerate(whole.shape)
        ]
        found = whole.clone()
        found[torch.meshgrid(*places, indexing="ij")] = part.to(whole)
        return found


class Ranked(Protocol):
    """What says along which axes of its tensors the rank units lie."""

    @property
    def rank_axes(self) -> Mapping[str, int | tuple[int, ...]]:
        """Tensor -> axis, or axes."""


def axes_of(delta: Ranked, name: str) -> tuple[int, ...]:
    """The axes of the tensor ``name`` along which its rank units lie; none where it has no ranks."""
    axes = delta.rank_axes.get(name, ())
    return (axes,) if isinstance(axes, int) else tuple(axes)


def along(vector: Tensor, axis: int, ndim: int) -> Tensor:
    """``vector`` as a tensor of ``ndim`` axes that runs along one of them, to be broadcast."""
    return vector.view([-1 if place == axis else 1 for place in range(ndim)])


def closers(delta: Delta | type[Delta]) -> tuple[str, ...]:
    """The tensors in which zeros in a unit's place take it out of the function; none where units cannot be taken out.

    ``closed_by`` where the delta says it itself; else its ranked tensors that start at zero, else its ranked vectors.
    """
    if delta.closed_by:
        return delta.closed_by
    ranked = [name for name in delta.rank_axes if name in delta.roles]
    zero = [name for name in ranked if delta.starts.get(name) == 0.0]
    return tuple(zero or [name for name in ranked if delta.roles[name] == "vector"])


def first_units(delta: Delta, name: str, tensor: Tensor, count: int) -> Tensor:
    """``tensor``, the delta's ``name``, as it is with the first ``count`` units alone.

    Sliced where the delta is ``sliceable``; else whole, with zeros in the place of the other units where that takes them out.
    """
    if delta.sliceable:
        for axis in axes_of(delta, name):
            tensor = tensor.narrow(axis, 0, count)
    elif name in closers(delta):
        first = torch.arange(delta.rank, device=tensor.device) < count
        for axis in axes_of(delta, name):
            tensor = tensor * along(first, axis, tensor.ndim)
    return tensor
