"""MiLoRA: the last singular triplets, by numpy's SVD."""

from __future__ import annotations

import numpy as np
import torch
from torch.testing import assert_close

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.site import Site

RANK, SCALE = 3, 5 / 3
SITE = Site("m", 0, "q", 7, 10, "linear")


def test_the_last_triplets_and_the_scale_divided_out() -> None:
    weight = torch.randn(10, 7, generator=torch.Generator().manual_seed(1))
    delta = deltas.get("low_rank")(SITE, RANK)
    inits.get("milora")(delta, InitContext(weight, SCALE, torch.Generator()))
    u, s, v = np.linalg.svd(weight.double().numpy())
    minor = sum(s[k] * np.outer(u[:, k], v[k]) for k in (4, 5, 6))
    assert_close(SCALE * delta.dense().detach().double(), torch.tensor(minor), rtol=1e-4, atol=1e-5)
    expected = torch.tensor(s[4:] / SCALE)
    assert_close((delta.A @ delta.A.T).detach().double(), torch.diag(expected), rtol=1e-4, atol=1e-5)
    assert_close((delta.B.T @ delta.B).detach().double(), torch.diag(expected), rtol=1e-4, atol=1e-5)
