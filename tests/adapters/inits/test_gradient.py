"""The gradient's directions as a start: by numpy's SVD, and what of the gradient the first step keeps."""

from __future__ import annotations

import numpy as np
import torch
from torch.testing import assert_close

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.site import Site

RANK = 3


def test_a_keeps_the_most_of_the_gradient_and_b_is_zero() -> None:
    g = torch.randn(10, 7, generator=torch.Generator().manual_seed(2))
    delta = deltas.get("low_rank")(Site("m", 0, "q", 7, 10, "linear"), RANK)
    inits.get("gradient")(delta, InitContext(torch.zeros(10, 7), 2.0, torch.Generator(), gradient=g))
    values = np.linalg.svd(g.double().numpy(), compute_uv=False)
    a = delta.A.detach().double()
    assert_close(a @ a.T, torch.eye(RANK, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    kept = (g.double() @ a.T).norm(dim=0)
    assert_close(kept, torch.tensor(values[:RANK]), rtol=1e-4, atol=1e-5)
    assert not delta.B.any()
    assert delta.is_zero()
