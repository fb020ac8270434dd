"""Each matrix orthonormal in itself: rows, or columns where there are fewer, of length one and at right angles (Saxe et al. 2014).

In LoRA that is A, with A A^T = I; B starts at zero, so that dW = 0. This is Asymmetric LoRA's A (Zhu et al. 2024). Not
`orthogonal`, where B is drawn too, at right angles to A, and neither is orthonormal.
Differs from the authors' code in: uniform among such matrices, where Asymmetric LoRA's has the singular vectors of a matrix of uniform
numbers.
"""

from __future__ import annotations

import torch
from torch import nn

from lorakit.adapters.init import Init, InitContext, Initialisable, inits


@torch.no_grad()
def orthonormal(delta: Initialisable, context: InitContext) -> None:
    """Uniform among matrices with orthonormal rows or columns, for every tensor that is drawn."""
    for _, tensor, _ in delta.init_tensors():
        nn.init.orthogonal_(tensor, generator=context.generator)


inits.register(
    Init("orthonormal", "Orthonormal in itself", "A A^T = I, B = 0", "Saxe et al. 2014; Zhu et al. 2024", orthonormal),
)
