"""AdaLoRA's start: every factor ~ N(0, 0.02^2), whatever its shape (Zhang et al. 2023; the deviation PEFT uses).

Checked against the authors' code.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits

DEVIATION = 0.02


@torch.no_grad()
def small_gaussian(delta: Delta, context: InitContext) -> None:
    """Normal with standard deviation 0.02 for every tensor that is drawn."""
    for _, tensor, _ in delta.init_tensors():
        tensor.normal_(0.0, DEVIATION, generator=context.generator)


inits.register(
    Init("small_gaussian", "Small Gaussian", "A ~ N(0, 0.02^2), B = 0", "Zhang et al. 2023", small_gaussian),
)
