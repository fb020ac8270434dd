"""LoRA's start in its authors' code: U(-1/sqrt(n), 1/sqrt(n)) with n the number of inputs, for every tensor that is drawn at all.

In LoRA that is A; B starts at zero, so that dW = 0.
Checked against the authors' code.
"""

from __future__ import annotations

import torch

from lorakit.adapters.init import Init, InitContext, Initialisable, inits
from lorakit.adapters.starts import linear_uniform


@torch.no_grad()
def kaiming(delta: Initialisable, context: InitContext) -> None:
    """Kaiming-uniform with a = sqrt(5) (He et al. 2015; microsoft/LoRA)."""
    for _, tensor, _ in delta.init_tensors():
        linear_uniform(tensor, context.generator)


inits.register(Init("kaiming", "Kaiming uniform", "A ~ U(+-1/sqrt(in)), B = 0", "He et al. 2015; LoRA's code", kaiming))
