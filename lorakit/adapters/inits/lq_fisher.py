"""LQ-LoRA's start, weighted by the Fisher information (Guo et al. 2023, arXiv 2311.12023, sections 3.1 and 3.3).

F = mean of (dL/dW)^2 over rows, R and C the roots of its means by rows and by columns
s B A = R^-1 SVD_r(R (W - Q) C) C^-1,  Q = round(W - s B A)          by turns from Q = 0, while |sqrt(F) (W - Q - s B A)| falls

What the loss minds is kept by A and B. As in the authors' code the first turn takes the principal part of W itself, and means come
before roots; theirs keeps the turn in which the error rose, this one the one before. A row or a column of no gradient at all counts a
thousandth of the mean. The paper's other half, another precision for every matrix, is ``model.quantization: mixed``, which goes by the
same F.
Large matrices: ``lorakit.adapters.spectrum``.
Differs from the authors' code in: the SVD, the turn that is kept, and 5 turns at most by default for their 100.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits
from lorakit.adapters.inits.pissa import split

SMALLEST = 1e-3  # of the mean


@torch.no_grad()
def lq_fisher(delta: Delta, context: InitContext) -> None:
    """Fill in the factors and round the site's weight, by turns, for the turn with the least weighted error."""
    weight, quantise = context.weight, context.quantise
    assert weight is not None
    assert context.fisher is not None
    assert quantise is not None
    fisher = context.fisher.to(weight)
    rows, columns = importance(fisher, 1), importance(fisher, 0)
    rounded, least = torch.zeros_like(weight), torch.inf
    kept = weight
    for _ in range(context.steps):
        before = [parameter.clone() for parameter in delta.parameters()]
        u, s, v = context.leading(rows[:, None] * (weight - rounded) * columns, delta.rank)
        split(delta, context, u / rows[:, None], s, v / columns, slice(delta.rank))
        left = weight - context.scale * delta.dense()
        rounded = quantise(left)
        error = float((fisher.sqrt() * (left - rounded)).norm())
        if error > least:
            for parameter, earlier in zip(delta.parameters(), before, strict=True):
                parameter.copy_(earlier)
            quantise(kept)
            break
        least, kept = error, left


def importance(fisher: torch.Tensor, axis: int) -> torch.Tensor:
    """Roots of the means over an axis, none of them zero; only their ratios matter."""
    means = fisher.mean(dim=axis).sqrt()
    mean = means.mean()
    return (means / mean).clamp_min(SMALLEST) if mean > 0 else torch.ones_like(means)


inits.register(
    Init(
        "lq_fisher",
        "LQ-LoRA with Fisher weights",
        "s B A and Q = W - s B A rounded, by turns, nearest to W where the loss minds",
        "Guo et al. 2023, sections 3.1 and 3.3",
        lq_fisher,
        factors=True,
        needs="fisher",
        leading=True,
        quantises=True,
    ),
)
