"""He's start: uniform with bound sqrt(6 / inputs), of A by the layer's inputs and of B by the rank."""

from __future__ import annotations

import math

import torch
from scipy.stats import kstest

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.site import Site


def test_it_is_uniform_within_he_s_bounds() -> None:
    delta = deltas.get("diagonal")(Site("m", 0, "q", 400, 300, "linear"), 50)
    inits.get("he_uniform")(delta, InitContext(None, 1.0, torch.Generator().manual_seed(0)))
    for tensor, inputs in ((delta.A, 400), (delta.B, 50)):
        bound = math.sqrt(6 / inputs)
        assert kstest(tensor.detach().flatten().numpy(), "uniform", args=(-bound, 2 * bound)).pvalue > 0.01
    assert not delta.g.any()
