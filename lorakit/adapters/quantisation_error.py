"""The low-rank part of what quantising a weight loses (LQER: Zhang et al. 2024, arXiv 2402.02446, section 3).

    LQER      W - Wq ~ B A                                  the first k singular triplets of W - Wq
    L2QER     W - Wq ~ B A,  B (A S) those of (W - Wq) S    S = diag(mean |x|): inputs that are large in the data count more

W and Wq: out x in;  A: k x in;  B: out x k. As an update of Wq it is an ordinary LoRA, at scale 1.
Large matrices: ``lorakit.adapters.spectrum``.
"""

from __future__ import annotations

import torch

from lorakit.adapters.spectrum import leading

SMALLEST = 1e-4
"""Of a mean |x|, so that an input that is never there can be divided by; as in the authors' code."""


def low_rank_error(
    error: torch.Tensor, rank: int, generator: torch.Generator, magnitudes: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """B (out x rank) and A (rank x in) for W - Wq (out x in); magnitudes: mean |x| (in,), for L2QER.

    Singular values are shared by the two factors. A common factor of all magnitudes changes nothing.
    """
    weights = torch.ones_like(error[0]) if magnitudes is None else magnitudes.to(error).clamp_min(SMALLEST)
    u, s, v = leading(error * weights, rank, generator, exact=False)
    root = s.sqrt()
    return u * root, root[:, None] * v / weights
