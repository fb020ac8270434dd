"""Terms that an allocator adds to the loss while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.rank_units import axes_of
from lorakit.adapters.switching import ON
from lorakit.tasks.batching import Batch, SummedLoss


def with_penalty(loss: SummedLoss, weight: float, terms: Callable[[], Sequence[torch.Tensor]]) -> SummedLoss:
    """``loss`` and, for each of the batch's rows, ``weight`` times the mean of ``terms()``; the loss itself where that is zero."""
    if not weight:
        return loss

    def penalised(model: nn.Module, batch: Batch) -> torch.Tensor:
        summed, values = loss(model, batch), terms()
        return summed + len(batch["labels"]) * weight * torch.stack([*values]).mean() if values else summed

    return penalised


def unlike_orthonormal(adapters: Iterable[Adapter]) -> list[torch.Tensor]:
    """``|M M^T - 1|_F`` of every A and transposed B (rank x n) in training, of sites that are on, that is not what closes a unit."""
    return [
        (rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)).norm()
        for adapter in adapters
        if adapter.state == ON and not any(name in adapter.delta.closers() for name, _ in outer_factors(adapter))
        for _, rows in outer_factors(adapter)
    ]


def outer_factors(adapter: Adapter) -> Iterator[tuple[str, torch.Tensor]]:
    """The site's own A and B that train, by name, each as a matrix with a row for every rank unit."""
    for name, tensor, role in adapter.trained_tensors():
        axes = axes_of(adapter.delta, name)
        if role in ("A", "B") and tensor.ndim == 2 and len(axes) == 1:
            yield name, tensor.movedim(axes[0], 0)
