"""LoftQ's start: A and B hold what rounding W loses, and W is rounded without what they hold (Li et al. 2023, arXiv 2310.08659, section 3).

Q = round(W - s B A),  s B A = the first r singular triplets of W - Q        by turns, T times, from B A = 0

Algorithm 1, with the scale s divided out of A and B, so that Q + s B A is near W whatever alpha is. Q is the site's frozen weight from
then on and is kept with the run (``artifacts.base_file``). With T = 1 it is W rounded as it is.
Large matrices: ``lorakit.adapters.spectrum``.
Differs from PEFT's code in: the scale s is divided out of A and B, which PEFT leaves in (huggingface/peft#1982).
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits
from lorakit.adapters.inits.pissa import split


@torch.no_grad()
def loftq(delta: Delta, context: InitContext) -> None:
    """Round the site's weight, and fill in the factors that come nearest to what that loses."""
    assert context.weight is not None
    assert context.quantise is not None
    update = torch.zeros_like(context.weight)
    for _ in range(context.steps):
        lost = context.weight - context.quantise(context.weight - update)
        split(delta, context, *context.leading(lost, delta.rank), slice(delta.rank))
        update = context.scale * delta.dense()


inits.register(
    Init(
        "loftq",
        "LoftQ",
        "s B A = the first r singular triplets of W - Q, Q = W - s B A rounded, by turns",
        "Li et al. 2023, section 3",
        loftq,
        factors=True,
        needs="weight",
        leading=True,
        quantises=True,
    ),
)
