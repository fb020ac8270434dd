"""He's start: U(-sqrt(6 / n), sqrt(6 / n)) with n the number of inputs, for every tensor that is drawn at all (He et al. 2015).

Kaiming-uniform with a = 0, 2.4 times as wide as LoRA's own (``kaiming``). Of B (out x rank) n is the rank.
Checked against the authors' code.
"""

from __future__ import annotations

import torch

from lorakit.adapters.init import Init, InitContext, Initialisable, inits
from lorakit.adapters.starts import he_uniform


@torch.no_grad()
def start(delta: Initialisable, context: InitContext) -> None:
    """Kaiming-uniform with a = 0."""
    for _, tensor, _ in delta.init_tensors():
        he_uniform(tensor, context.generator)


inits.register(
    Init(
        "he_uniform",
        "He uniform",
        "A ~ U(+-sqrt(6/in)), B = 0",
        "He et al. 2015; AFLoRA's and dynamic DoRA's code",
        start,
    )
)
