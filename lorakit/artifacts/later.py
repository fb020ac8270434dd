"""Tensors that are computed when they are first needed, so that a folded model is written without being held.

A ``Later`` says what it will be, its shape and dtype, and takes no memory. ``save_pretrained`` asks a tensor to be contiguous when its
shard is written, and lets it go with the shard. Whatever else is done with one computes it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch

DESCRIBING = frozenset(
    {
        torch.Tensor.device.__get__,
        torch.Tensor.dtype.__get__,  # type: ignore[attr-defined]
        torch.Tensor.shape.__get__,  # type: ignore[attr-defined]
        torch.Tensor.element_size,
        torch.Tensor.numel,
        torch.Tensor.nelement,
        torch.Tensor.size,
        torch.Tensor.untyped_storage,
    }
)
"""What tells of a tensor and needs none of its numbers."""


class Later(torch.Tensor):
    """A tensor of the shape and dtype of ``like``, which is what ``make`` returns."""

    make: Callable[[], torch.Tensor]

    @classmethod
    def of(cls, like: torch.Tensor, make: Callable[[], torch.Tensor]) -> Self:
        """On no device (``meta``) until it is made."""
        later = torch.Tensor._make_subclass(cls, torch.empty(like.shape, dtype=like.dtype, device="meta"))
        later.make = make
        return later

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Describe it, or make it."""
        with torch._C.DisableTorchFunctionSubclass():
            if func in DESCRIBING:
                return func(*args, **(kwargs or {}))
            return func(*map(made, args), **{name: made(value) for name, value in (kwargs or {}).items()})


def made(value: Any) -> Any:
    """With every tensor in it made that is none yet."""
    if isinstance(value, Later):
        return value.make()
    if isinstance(value, (list, tuple)):
        return type(value)(map(made, value))
    return value
