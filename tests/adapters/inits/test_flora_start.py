"""FLoRA's start: A and B ~ N(0, 1 / (2 rank)), whatever their widths (SJTU-DeepVisionLab/FLoRA)."""

from __future__ import annotations

import torch
from scipy.stats import kstest

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.adapters.method import methods
from lorakit.backbone.site import Site


def test_both_factors_are_normal_with_variance_one_over_two_ranks() -> None:
    delta = deltas.get("core")(Site("m", 0, "q", 700, 300, "linear"), 18)
    inits.get("flora")(delta, InitContext(None, 1.0, torch.Generator().manual_seed(0)))
    for tensor in (delta.A, delta.B):
        assert kstest(tensor.detach().flatten().numpy() * 6, "norm").pvalue > 0.01  # sqrt(2 * 18) = 6
    assert not delta.G.any()
    assert methods.get("flora").init == "flora"
