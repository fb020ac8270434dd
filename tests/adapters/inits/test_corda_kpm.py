"""CorDA's other end: what ipm leaves of W (the decomposition itself is checked in test_corda_ipm.py)."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.site import Site


def test_what_one_end_leaves_is_the_other_end() -> None:
    weight = torch.randn(10, 7, generator=torch.Generator().manual_seed(1))
    tokens = torch.randn(50, 7, generator=torch.Generator().manual_seed(2))
    parts = []
    for name, rank in (("corda_ipm", 4), ("corda_kpm", 3)):
        delta = deltas.get("low_rank")(Site("m", 0, "q", 7, 10, "linear"), rank)
        inits.get(name)(delta, InitContext(weight, 2.0, torch.Generator(), covariance=tokens.T @ tokens / 50))
        parts.append(2.0 * delta.dense().detach())
    assert_close(parts[0] + parts[1], weight, rtol=1e-4, atol=1e-5)
    assert torch.linalg.matrix_rank(parts[1]) == 3
