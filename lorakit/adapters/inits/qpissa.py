"""QPiSSA: PiSSA over a quantised residual (Meng et al. 2024, arXiv 2404.02948, section 4 and its algorithm of several turns).

s B A = the first r singular triplets of W - Q,  Q = round(W - s B A)        by turns, T times, from Q = 0

With T = 1 it is PiSSA, s B A the principal part of W, and what is left of W is rounded: its largest directions are not, and what is left
spans less. Q is the site's frozen weight from then on and is kept with the run (``artifacts.base_file``). LoftQ takes the turns in the
other order, from B A = 0.
Large matrices: ``lorakit.adapters.spectrum``.
Differs from the authors' code in: the scale s is divided out of A and B (theirs has alpha = r, so that s is 1), and 5 turns by default,
which their functions have, for the 1 of their script.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits
from lorakit.adapters.inits.pissa import split


@torch.no_grad()
def qpissa(delta: Delta, context: InitContext) -> None:
    """Fill in the factors of what Q lacks, and round the site's weight without them, by turns."""
    assert context.weight is not None
    assert context.quantise is not None
    rounded = torch.zeros_like(context.weight)
    for _ in range(context.steps):
        split(delta, context, *context.leading(context.weight - rounded, delta.rank), slice(delta.rank))
        rounded = context.quantise(context.weight - context.scale * delta.dense())


inits.register(
    Init(
        "qpissa",
        "QPiSSA",
        "s B A = the first r singular triplets of W - Q, from Q = 0, Q = W - s B A rounded, by turns",
        "Meng et al. 2024, section 4",
        qpissa,
        factors=True,
        needs="weight",
        leading=True,
        quantises=True,
    ),
)
