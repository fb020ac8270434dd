"""FLoRA's start in its authors' code: every factor ~ N(0, 1/(2 rank)) (Si et al. 2024, arXiv 2405.14739).

Kaiming-normal with a = sqrt(3) and the rank, the smaller side of a factor, as the number of inputs, of A as of B.
Checked against the authors' code.
"""

from __future__ import annotations

import torch

from lorakit.adapters.init import Init, InitContext, Initialisable, inits


@torch.no_grad()
def flora(delta: Initialisable, context: InitContext) -> None:
    """Normal with variance 1 / (2 rank)."""
    for _, tensor, _ in delta.init_tensors():
        tensor.normal_(0.0, (2 * min(tensor.shape)) ** -0.5, generator=context.generator)


inits.register(Init("flora", "FLoRA", "A and B ~ N(0, 1/(2 rank))", "Si et al. 2024; the authors' code", flora))
